"""What differs between the families of open models when they are tuned: encoding, and the transformer's call.

All are rectified flows (2209.03003, 2403.03206): x_σ = (1 − σ) x + σ n, and the transformer answers with v = n − x.
Each call has exactly the arguments that the family's pipeline gives in its loop (diffusers 0.42); tests hold the two
side by side. Levels of noise are drawn as these models were trained: logit-normal, moved by the scheduler's own shift.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from phonofilm import clip as clips
from phonofilm.clip import Audio, Clip
from phonofilm.engines.open.families import Family
from phonofilm.engines.open.loading import first_line, pipeline_class
from phonofilm.engines.open.source import INSTALL, Source
from phonofilm.errors import CheckpointError, InputError

TARGETS: Final = ("to_q", "to_k", "to_v", "to_out.0")  # of every attention: what carries the adapters
FFT: Final = 1024  # samples of a window of LTX-2's spectrogram (`filter_length` of its published configuration)
FAINT: Final = 1e-5  # the least amplitude before its logarithm

Latents = dict[str, Tensor]
"""By modality. video: (1, C, T, H, W); audio: (1, C, L, M), L steps of time and M bands. Normalised, float32."""


@dataclass(frozen=True)
class Sample:
    """A clip and its caption as the transformer meets them. A clip without sound has no latents of sound."""

    latents: Latents
    text: dict[str, Tensor]

    def to(self, device: torch.device) -> Sample:
        return Sample(
            {name: value.to(device) for name, value in self.latents.items()},
            {name: value.to(device) for name, value in self.text.items()},
        )


def level(q: float, shift: float, least: float = 0.0) -> float:
    """The q-quantile of the noise levels that are drawn: logit-normal, shifted, none below `least`.

    s / (1/t − 1 + s), the shift of a level t by s, adds ln s to its logit (2403.03206, eq. 23).
    """
    normal, moved = NormalDist(), math.log(shift)
    low = normal.cdf(math.log(least / (1 - least)) - moved) if least > 0 else 0.0
    share = min(max(low + (1 - low) * q, 1e-6), 1 - 1e-6)
    return max(least, 1 / (1 + math.exp(-normal.inv_cdf(share) - moved)))


class Tuner(ABC):
    """One family. Its encoders and its transformer are loaded apart, when they are needed.

    source: the checkpoint; device, dtype: where and in what precision it works (the picture's and the sound's
    encoders always in float32). cls: the pipeline's class.
    """

    family_name: ClassVar[str]
    pipelines: ClassVar[tuple[str, ...]]  # of checkpoints that can be tuned; the first is the one that loads
    unused: ClassVar[tuple[str, ...]] = ("transformer",)  # components that encoding does without

    def __init__(self, source: Source, device: torch.device, dtype: torch.dtype) -> None:
        assert source.family is not None
        self.source, self.device, self.dtype = source, device, dtype
        self.family: Family = source.family
        self.scheduler = self._config("scheduler", "scheduler_config.json")
        self.cls = pipeline_class(self.pipelines[0])
        self.pipe: Any = None
        self.transformer: Any = None

    # --- what is known before anything is loaded ----------------------------------------------------------------------
    @property
    @abstractmethod
    def multiple(self) -> int:
        """Sides in pixels are multiples of it."""

    @property
    def least(self) -> float:
        """The least level of noise that the transformer is used for."""
        return 0.0

    @property
    def note(self) -> str:
        """What the user should know of this checkpoint, "" for nothing."""
        return ""

    @abstractmethod
    def shift(self, sample: Sample) -> float:
        """By how much the levels of noise are moved up for a clip, above 0; 1 is not at all."""

    def _config(self, part: str, name: str = "config.json") -> dict[str, Any]:
        try:
            found = json.loads((self.source.folder / part / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.source.folder / part / name}: cannot be read ({error})") from error
        if not isinstance(found, dict):
            raise CheckpointError(f"{self.source.folder / part / name}: is no configuration")
        return found

    # --- encoding -----------------------------------------------------------------------------------------------------
    def open_encoders(self) -> None:
        """Load the encoders of text, picture and sound. Raises CheckpointError, InputError as `load_pipeline` does."""
        types = {"default": self.dtype, "vae": torch.float32, "audio_vae": torch.float32}
        types = {name: kind for name, kind in types.items() if name == "default" or name in self.source.index}
        with self._reading(self.pipelines[0]):
            self.pipe = self.cls.from_pretrained(
                str(self.source.folder), dtype=types, use_safetensors=True, local_files_only=True,
                **dict.fromkeys(self.unused),
            ).to(self.device)  # fmt: skip

    def close_encoders(self) -> None:
        self.pipe = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def encode(self, clip: Clip, caption: str) -> Sample:
        """A clip at the model's rate and a length that it makes, on the CPU. Its sound is None if there is none."""
        pixels = torch.from_numpy(clip.frames).permute(3, 0, 1, 2)[None].to(self.device, torch.float32) / 127.5 - 1
        latents = {"video": self.picture(self.pipe.vae.encode(pixels).latent_dist.mode())}
        sound = None if clip.audio is None else self.sound(clip.audio, len(clip.frames))
        if sound is not None:
            latents["audio"] = sound
        latents = {name: value.float() for name, value in latents.items()}
        return Sample(latents, self.words(caption)).to(torch.device("cpu"))

    @abstractmethod
    def picture(self, found_BCTHW: Tensor) -> Tensor:
        """The autoencoder's latents, normalised."""

    def sound(self, audio: Audio, frames: int) -> Tensor | None:
        """(1, C, L, M), the latents of a sound as long as so many frames, normalised; None in silent families."""
        return None

    @abstractmethod
    def words(self, caption: str) -> dict[str, Tensor]:
        """What the transformer gets of a caption, as the pipeline makes it."""

    def _words(self, caption: str) -> tuple[Any, ...]:
        """The pipeline's own encoding of a caption, at the length that it has in generation."""
        length = inspect.signature(type(self.pipe).__call__).parameters["max_sequence_length"].default
        found: tuple[Any, ...] = self.pipe.encode_prompt(
            caption, do_classifier_free_guidance=False, max_sequence_length=length, device=self.device
        )
        return found

    # --- training -----------------------------------------------------------------------------------------------------
    def open_transformer(self, rank: int, seed: int) -> nn.Module:
        """Load the transformer and put an adapter on its attention; only that has gradients, and it is float32."""
        cls = pipeline_class(str(self.source.index["transformer"][1]))
        with self._reading("transformer"):
            model = cls.from_pretrained(
                str(self.source.folder), subfolder="transformer", dtype=self.dtype, use_safetensors=True,
                local_files_only=True,
            )  # fmt: skip
            peft = importlib.import_module("peft")
        if missing := next((name for name, value in model.named_parameters() if value.is_meta), None):
            raise CheckpointError(f"{self.source.folder / 'transformer'}: has no weights for {missing}")
        model.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model.add_adapter(peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS)))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if self.device.type != "cpu":
            model.enable_gradient_checkpointing()
        self.transformer = model.to(self.device).eval()  # no dropout
        return model  # type: ignore[no-any-return]

    def adapter(self) -> dict[str, Tensor]:
        """The adapter's weights by the names that peft gives them."""
        peft = importlib.import_module("peft")
        found: dict[str, Tensor] = peft.get_peft_model_state_dict(self.transformer)
        return {name: value.detach().cpu() for name, value in found.items()}

    @abstractmethod
    def predict(self, text: dict[str, Tensor], noisy: Latents, sigma: float) -> Latents:
        """The transformer's velocity for each modality of `noisy`, at noise level `sigma` in (0, 1]."""

    def _time(self, sigma: float) -> Tensor:
        """(1,), the noise level as the scheduler tells it to the transformer."""
        steps = float(self.scheduler.get("num_train_timesteps", 1000))
        return torch.tensor([sigma * steps], dtype=torch.float32, device=self.device)

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except ImportError as error:
            raise InputError(f"tuning {self.family.title} needs more packages ({error}): {INSTALL}", "model") from error
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise CheckpointError(f"{self.source.folder}: cannot be loaded as {what}: {first_line(error)}") from error


class TuneLtx2(Tuner):
    """LTX-2.x: picture and sound. Of a clip without sound the picture is learnt with the modalities isolated."""

    family_name = "ltx-2"
    pipelines = ("LTX2Pipeline", "LTX2ConditionPipeline", "LTX2ImageToVideoPipeline")
    unused = ("transformer", "vocoder", "processor", "prompt_enhancer", "duration_head")

    @property
    def multiple(self) -> int:
        return int(self._config("vae").get("spatial_compression_ratio", 32))

    def shift(self, sample: Sample) -> float:
        s = self.scheduler
        if not s.get("use_dynamic_shifting"):
            return float(s.get("shift", 1.0))
        tokens = math.prod(sample.latents["video"].shape[2:])
        low, high = float(s.get("base_image_seq_len", 1024)), float(s.get("max_image_seq_len", 4096))
        begin, end = float(s.get("base_shift", 0.95)), float(s.get("max_shift", 2.05))
        share = (min(tokens, high) - low) / (high - low)  # beyond, hardly a step would be without full noise
        return math.exp(begin + share * (end - begin))

    def picture(self, found_BCTHW: Tensor) -> Tensor:
        vae = self.pipe.vae
        found: Tensor = self.pipe._normalize_latents(
            found_BCTHW, vae.latents_mean, vae.latents_std, vae.config.scaling_factor
        )
        return found

    def sound(self, audio: Audio, frames: int) -> Tensor:
        vae = self.pipe.audio_vae
        c, ratio = vae.config, int(self.pipe.audio_vae_temporal_compression_ratio)
        count = round(frames / self.family.fps * (c.sample_rate / c.mel_hop_length / ratio))
        mels = count * ratio - (0 if c.causality_axis in (None, "none") else ratio - 1)  # what is decoded from them
        heard = clips.resample(audio, c.sample_rate)
        if heard.channels != c.in_channels:
            heard = clips.mono(heard)
        heard = clips.lasting(heard, max(mels * c.mel_hop_length, FFT) / c.sample_rate)
        samples = torch.from_numpy(heard.samples).to(self.device).expand(c.in_channels, -1)
        mel_CLM = log_mel(samples, c.sample_rate, c.mel_hop_length, c.mel_bins or 64)[:, :mels]
        found = vae.encode(mel_CLM[None].to(vae.dtype)).latent_dist.mode()
        assert found.shape[2] == count, f"{found.shape[2]} steps of sound where the pipeline makes {count}"
        packed = self.pipe._normalize_audio_latents(
            self.pipe._pack_audio_latents(found), vae.latents_mean, vae.latents_std
        )
        normal: Tensor = self.pipe._unpack_audio_latents(packed, count, found.shape[3])
        return normal

    def words(self, caption: str) -> dict[str, Tensor]:
        found, mask, _, _ = self._words(caption)
        side = getattr(self.pipe.tokenizer, "padding_side", "left")
        video, audio, mask = self.pipe.connectors(found, mask, padding_side=side)
        return {"video": video, "audio": audio, "mask": mask}

    def predict(self, text: dict[str, Tensor], noisy: Latents, sigma: float) -> Latents:
        cls, model, dtype = self.cls, self.transformer, text["video"].dtype
        patch, patch_t = model.config.patch_size, model.config.patch_size_t
        t, h, w = noisy["video"].shape[2:]
        video = cls._pack_latents(noisy["video"], patch, patch_t).to(dtype)
        if "audio" in noisy:
            audio = cls._pack_audio_latents(noisy["audio"]).to(dtype)
        else:
            audio = video.new_zeros(1, 1, model.config.audio_in_channels)  # nothing sees it
        fps, time = self.family.fps, self._time(sigma)
        seen, heard = model(
            hidden_states=video, audio_hidden_states=audio,
            encoder_hidden_states=text["video"], audio_encoder_hidden_states=text["audio"],
            timestep=time, sigma=time,
            encoder_attention_mask=text["mask"], audio_encoder_attention_mask=text["mask"],
            num_frames=t, height=h, width=w, fps=fps, audio_num_frames=audio.shape[1],
            video_coords=model.rope.prepare_video_coords(1, t, h, w, self.device, fps=fps),
            audio_coords=model.audio_rope.prepare_audio_coords(1, audio.shape[1], self.device),
            isolate_modalities="audio" not in noisy,
            spatio_temporal_guidance_blocks=None, perturbation_mask=None, use_cross_timestep=True,
            attention_kwargs=None, return_dict=False,
        )  # fmt: skip
        found = {"video": cls._unpack_latents(seen.float(), t, h, w, patch, patch_t)}
        if "audio" in noisy:
            found["audio"] = cls._unpack_audio_latents(heard.float(), audio.shape[1], noisy["audio"].shape[3])
        return found


class TuneWan(Tuner):
    """Wan 2.1 and 2.2, text to video. Of the two transformers of 2.2 A14B the one for high noise is tuned."""

    family_name = "wan"
    pipelines = ("WanPipeline",)
    unused = ("transformer", "transformer_2")

    @property
    def multiple(self) -> int:
        return int(self._config("vae").get("scale_factor_spatial", 8)) * self._patch[1]

    @property
    def _patch(self) -> tuple[int, int, int]:
        t, h, w = self._config("transformer").get("patch_size", (1, 2, 2))
        return int(t), int(h), int(w)

    @property
    def least(self) -> float:
        return float(self.source.index.get("boundary_ratio") or 0.0)

    @property
    def note(self) -> str:
        if not self.least:
            return ""
        return (
            f"{self.source.name} has two transformers: the one for noise levels from {self.least:g} on is tuned, which "
            "lays out the scene; transformer_2, which finishes it, stays as it is"
        )

    def shift(self, sample: Sample) -> float:
        return float(self.scheduler.get("flow_shift", self.scheduler.get("shift", 1.0)))

    def picture(self, found_BCTHW: Tensor) -> Tensor:
        config = self.pipe.vae.config
        mean, std = (found_BCTHW.new_tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
        return (found_BCTHW - mean) / std

    def words(self, caption: str) -> dict[str, Tensor]:
        return {"video": self._words(caption)[0]}

    def predict(self, text: dict[str, Tensor], noisy: Latents, sigma: float) -> Latents:
        time, patch = self._time(sigma), self._patch
        if self.source.index.get("expand_timesteps"):  # 2.2 TI2V 5B: a level for each token
            t, h, w = noisy["video"].shape[2:]
            time = time[None].expand(1, t * (h // patch[1]) * (w // patch[2]))
        (seen,) = self.transformer(
            hidden_states=noisy["video"].to(self.dtype), timestep=time,
            encoder_hidden_states=text["video"].to(self.dtype), attention_kwargs=None, return_dict=False,
        )  # fmt: skip
        return {"video": seen.float()}


TUNERS: Final[tuple[type[Tuner], ...]] = (TuneLtx2, TuneWan)


def tuner(source: Source, device: torch.device, dtype: torch.dtype) -> Tuner:
    """The tuner of a checkpoint. Raises InputError that names those that can be tuned, and where packages are lacking.

    Loads nothing, but looks whether all of the checkpoint is there (CheckpointError).
    """
    for cls in TUNERS:
        if source.pipeline in cls.pipelines:
            if importlib.util.find_spec("peft") is None:
                raise InputError(f"tuning needs more packages: {INSTALL}", "model")
            made = cls(source, device, dtype)
            source.parts  # noqa: B018 (looks through it)
            return made
    known = " and ".join(f"{cls.family_name} ({cls.pipelines[0]})" for cls in TUNERS)
    raise InputError(
        f"{source.name} is a {source.pipeline}, which cannot be tuned; families that can: {known}", "model"
    )


def log_mel(samples_CN: Tensor, rate: int, hop: int, bins: int) -> Tensor:
    """(C, 1 + N // hop, bins), the logarithm of a mel spectrogram of amplitudes, as LTX-2's sound encoder has it.

    samples_CN: float32 in [-1, 1] at `rate` Hz, more than FFT / 2 of them. Hann windows about each hop-th sample,
    Slaney's mel scale from 0 to rate / 2 with bands of equal area, natural logarithm of at least FAINT.
    """
    audio_utils = importlib.import_module("transformers.audio_utils")
    bank = audio_utils.mel_filter_bank(FFT // 2 + 1, bins, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney")
    window = torch.hann_window(FFT, device=samples_CN.device)
    found = torch.stft(samples_CN, FFT, hop, window=window, center=True, pad_mode="reflect", return_complex=True)
    mel_CMT = torch.from_numpy(bank).to(found.device, torch.float32).T @ found.abs()
    return mel_CMT.clamp(min=FAINT).log().transpose(1, 2)
