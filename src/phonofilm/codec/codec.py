"""`Codec`: a clip to the latents of its picture and of its sound, and back, at once or as a stream.

Shapes: B clips, T frames, H height, W width, C channels, S latents of sound (8 a second), N samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phonofilm import checkpoint
from phonofilm.clip import NATIVE_FPS, NATIVE_RATE, Audio, Clip
from phonofilm.codec.audio import AudioCodec, AudioCodecConfig
from phonofilm.codec.video import FRAMES_PER_LATENT, PIXELS_PER_LATENT, State, VideoCodec, VideoCodecConfig
from phonofilm.errors import CheckpointError
from phonofilm.precision import native_type

VIDEO_KIND, AUDIO_KIND = "video-codec", "audio-codec"
VIDEO_FILE, AUDIO_FILE = f"{VIDEO_KIND}.safetensors", f"{AUDIO_KIND}.safetensors"

COMPRESSION = FRAMES_PER_LATENT * PIXELS_PER_LATENT**2 * 3 / VideoCodecConfig().channels  # values in / values out


class Codec:
    """The video codec and the audio codec together. Native rates: 16 frames and 16,000 samples (mono) a second."""

    def __init__(self, video: VideoCodec, audio: AudioCodec, *, hash: str = "") -> None:
        self.video, self.audio = video.eval(), audio.eval()
        self.hash = hash or _joint_hash(*(latents_hash(m.state_dict()) for m in (video, audio)))
        """Names what makes latents, the encoders: those that are kept on disk are valid for one hash only."""

    @property
    def device(self) -> torch.device:
        return self.video.mean.device

    @classmethod
    def load(cls, directory: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Codec:
        """Read both codecs from a directory.

        dtype: in which the convolutions of the picture are computed; None: as is fastest on the device.

        Raises CheckpointError when a file is missing, damaged or of another kind.
        """
        hashes, models = [], []
        for file, kind in ((VIDEO_FILE, VIDEO_KIND), (AUDIO_FILE, AUDIO_KIND)):
            stored = checkpoint.load(Path(directory) / file, kind=kind)
            hashes.append(latents_hash(stored.tensors))
            models.append(_build(stored, Path(directory) / file).to(device))
        video, audio = models
        assert isinstance(video, VideoCodec) and isinstance(audio, AudioCodec)
        return cls(_computing_in(video, dtype or native_type(device)), audio, hash=_joint_hash(*hashes))

    def save(self, directory: str | Path) -> None:
        """Write both codecs into a directory, as bf16; afterwards `hash` is that of what was written."""
        hashes = []
        for model, file, kind in ((self.video, VIDEO_FILE, VIDEO_KIND), (self.audio, AUDIO_FILE, AUDIO_KIND)):
            config = asdict(model.config)
            path = Path(directory) / file
            checkpoint.save(path, model.state_dict(), kind=kind, config=config, storage="bf16")
            hashes.append(latents_hash(checkpoint.load(path, kind=kind).tensors))
        self.hash = _joint_hash(*hashes)

    @torch.inference_mode()
    def encode_frames(self, frames_BTHWC: Tensor) -> Tensor:
        """uint8 (B, T, H, W, 3) to normalised latents (B, 32, ceil(T/4), H/16, W/16), float32."""
        frames = frames_BTHWC.to(self.device).float() / 127.5 - 1
        return self.video.encode(frames.permute(0, 1, 4, 2, 3))

    @torch.inference_mode()
    def encode_samples(self, samples_BN: Tensor) -> Tensor:
        """Mono sound in [-1, 1] to normalised latents (B, 64, ceil(N / 2000)), float32."""
        return self.audio.encode(samples_BN.to(self.device))

    def encode(self, clip: Clip) -> tuple[Tensor, Tensor | None]:
        """Latents of the picture (1, 32, T/4, H/16, W/16) and of the sound (1, 64, S), None for a clip without.

        A picture is encoded as four equal frames. Frames are filled up to a multiple of 4 with the last one; sound is
        cut or filled up with silence to the length of the frames. Raises ValueError for sides that are no multiples of
        16, and for other rates than the native ones (see `clip.to_native`).
        """
        if clip.fps != NATIVE_FPS and not clip.picture:
            raise ValueError(f"the codec works at {NATIVE_FPS} frames a second, the clip has {clip.fps}")
        video_z = self.encode_frames(torch.from_numpy(clip.frames)[None])
        if clip.audio is None:
            return video_z, None
        if clip.audio.sample_rate != NATIVE_RATE or clip.audio.channels != 1:
            raise ValueError(
                f"the codec works on mono sound at {NATIVE_RATE} Hz, "
                f"the clip has {clip.audio.channels} channels at {clip.audio.sample_rate} Hz"
            )
        wanted = video_z.shape[2] * FRAMES_PER_LATENT * NATIVE_RATE // NATIVE_FPS
        samples = np.zeros((1, wanted), np.float32)
        given = clip.audio.samples[:, :wanted]
        samples[:, : given.shape[1]] = given
        return video_z, self.encode_samples(torch.from_numpy(samples))

    @torch.inference_mode()
    def decode_frames(self, video_z: Tensor) -> Tensor:
        """Normalised latents (B, 32, t, h, w) to uint8 frames (B, 4t, 16h, 16w, 3)."""
        return _to_uint8(self.video.decode(video_z.to(self.device)))

    @torch.inference_mode()
    def decode_samples(self, audio_z: Tensor) -> Tensor:
        """Normalised latents (B, 64, S) to samples (B, 2000 S) in [-1, 1], float32."""
        return self.audio.decode(audio_z.to(self.device))

    def decode(self, video_z: Tensor, audio_z: Tensor | None = None, *, picture: bool = False) -> Clip:
        """The clip of one pair of latents (1, ..). `picture`: a still, of which one of the equal frames is kept."""
        frames = self.decode_frames(video_z)[0].cpu().numpy()
        sound = None if audio_z is None else _audio(self.decode_samples(audio_z))
        return Clip(frames[1:2] if picture else frames, float(NATIVE_FPS), sound)

    def decode_stream(self, video_z: Tensor, audio_z: Tensor | None = None, chunk: int = 1) -> Iterator[Clip]:
        """`decode` in pieces of `chunk` latent frames (a quarter of a second each), which joined give the same clip."""
        state: State | None = None
        sound = None if audio_z is None else self.audio.decode_stream(audio_z.to(self.device), 2 * chunk)
        for start in range(0, video_z.shape[2], chunk):
            with torch.inference_mode():
                frames, state = self.video.decode_step(video_z[:, :, start : start + chunk].to(self.device), state)
                samples = None if sound is None else next(sound, None)
            audio = None if samples is None else _audio(samples)
            yield Clip(_to_uint8(frames)[0].cpu().numpy(), float(NATIVE_FPS), audio)


def _to_uint8(frames_BTCHW: Tensor) -> Tensor:
    return ((frames_BTCHW + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2)


def _audio(samples_BN: Tensor) -> Audio:
    return Audio(samples_BN[:1].float().cpu().numpy(), NATIVE_RATE)


def latents_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hash of all weights of a codec on which its latents depend: all but the decoder's."""
    return checkpoint.weights_hash({name: x for name, x in tensors.items() if not name.startswith("decoder.")})


def _joint_hash(*hashes: str) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _computing_in(video: VideoCodec, dtype: torch.dtype) -> VideoCodec:
    """Convert the networks; mean and deviation of the latents stay float32."""
    video.encoder.to(dtype)
    video.decoder.to(dtype)
    return video


def _build(stored: checkpoint.Checkpoint, path: Path) -> VideoCodec | AudioCodec:
    given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in stored.config.items()}
    try:
        model: Any = (
            VideoCodec(VideoCodecConfig(**given))
            if stored.kind == VIDEO_KIND
            else AudioCodec(AudioCodecConfig(**given))
        )
        model.load_state_dict({key: value.float() for key, value in stored.tensors.items()})
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the weights do not fit their description ({error})".split("\n")[0]) from error
    built: VideoCodec | AudioCodec = model
    return built
