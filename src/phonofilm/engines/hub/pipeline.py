"""Text to video with sound, as a pipeline of `diffusers`.

>>> pipe = DiffusionPipeline.from_pretrained("…", trust_remote_code=True)
>>> made = pipe("a red ball bounces on a wooden floor", generator=torch.Generator().manual_seed(7))
>>> made.frames, made.audio, made.audio_sample_rate

An untouched generator makes the film that `phonofilm generate --seed` makes of its seed on the same device.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from phonofilm import latents
from phonofilm.clip import NATIVE_FPS, NATIVE_RATE, Audio, Clip, to_native
from phonofilm.codec.codec import Codec
from phonofilm.diffusion.sampler import Progress
from phonofilm.engines.hub.layout import PARTS, POINTER, PREFIX, write_index
from phonofilm.engines.hub.parts import (
    PhonofilmAudioCodec,
    PhonofilmTextEncoder,
    PhonofilmTimer,
    PhonofilmTransformer,
    PhonofilmVideoCodec,
)
from phonofilm.engines.making import Defaults, Maker, images_of
from phonofilm.errors import InputError
from phonofilm.model.denoiser import Denoiser
from phonofilm.model.timer import Timer
from phonofilm.request import Request
from phonofilm.text.encoder import TextEncoder
from phonofilm.text.tokenizer import Tokenizer

Still = Image.Image | NDArray[Any] | Tensor
"""A picture: of Pillow; an array (H, W, 3), uint8 or in [0, 1]; or a tensor (3, H, W) in [0, 1]."""


@dataclass
class PhonofilmOutput(BaseOutput):  # type: ignore[misc]
    """frames: B films of T frames, as output_type has it. audio: (B, 1, N) in [-1, 1]. audio_sample_rate: in Hz."""

    frames: Any
    audio: NDArray[np.float32] | Tensor
    audio_sample_rate: int = NATIVE_RATE


class PhonofilmPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Films with sound from text, and from a first and a last image.

    limits: what the weights were trained for: seconds (shortest, longest), seconds_step, sizes ((width, height), …).
    sampling: settings of the sampler, fields of `Defaults`.
    """

    fps: float = NATIVE_FPS
    audio_sample_rate: int = NATIVE_RATE

    def __init__(
        self,
        transformer: PhonofilmTransformer,
        text_encoder: PhonofilmTextEncoder,
        vae: PhonofilmVideoCodec,
        audio_vae: PhonofilmAudioCodec,
        timer: PhonofilmTimer,
        limits: dict[str, Any] | None = None,
        sampling: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer, text_encoder=text_encoder, vae=vae, audio_vae=audio_vae, timer=timer
        )
        self.register_to_config(limits=limits, sampling=sampling)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        seconds: float = 3.0,
        height: int = 128,
        width: int = 128,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        image: Still | None = None,
        last_image: Still | None = None,
        negative_prompt: str = "",
        num_videos_per_prompt: int = 1,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, float, dict[str, Tensor]], Any] | None = None,
    ) -> PhonofilmOutput | tuple[Any, Any]:
        """Make films.

        Args:
            prompt: what is seen and heard; a list makes one film of each, one after another.
            seconds, height, width: as the model's limits have it (see `config.limits`); `fps` frames a second.
            num_inference_steps, guidance_scale: None for the model's own; guidance 1 is none.
            generator: one for all films or one for each; an untouched one stands for its seed.
            image, last_image: the first and the last frame, cropped about the middle to the film's shape.
            negative_prompt: what is not wanted.
            output_type: "np", (B, T, H, W, 3) float32 in [0, 1]; "pt", the same as (B, T, 3, H, W); "pil", images.
            return_dict: False for the tuple (frames, audio).
            callback_on_step_end: called with the pipeline, the number of the step, the noise level in [0, 1] and
                {"latents": the clean strip as last predicted, (1, N, 128)}; what it raises ends the work, what it
                returns is not looked at.

        Raises ValueError for what the model cannot do.
        """
        if output_type not in ("np", "pt", "pil"):
            raise InputError(f"output_type must be np, pt or pil, got {output_type!r}")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        wanted = [text for text in prompts for _ in range(num_videos_per_prompt)]
        one = generator is None or isinstance(generator, torch.Generator)
        generators: list[Any] = [generator] * len(wanted) if one else list(generator)  # type: ignore[arg-type]
        if len(generators) != len(wanted):
            raise InputError(f"generator must be one, or {len(wanted)} for {len(wanted)} films, got {len(generators)}")
        requests = [
            Request(
                text, negative_prompt, seconds=seconds, size=f"{width}x{height}", seed=_seed(draw),
                steps=num_inference_steps, guidance=guidance_scale,
            )
            for text, draw in zip(wanted, generators, strict=True)
        ]  # fmt: skip
        self._check(requests[0])
        given = {
            role: _still(picture, (width, height))
            for role, picture in (("first", image), ("last", last_image))
            if picture is not None
        }
        maker = _PipelineMaker(self)
        steps = num_inference_steps or maker.defaults.steps
        clips: list[Clip] = []
        with self.progress_bar(total=steps * len(requests)) as bar:

            def tell(step: Progress) -> None:
                bar.update()
                if callback_on_step_end is not None:
                    callback_on_step_end(self, step.step - 1, step.t, {"latents": step.x0_BND})

            for request in requests:
                clips.append(maker.film(request, given, tell))
        frames, audio = _output(clips, output_type)
        return PhonofilmOutput(frames, audio) if return_dict else (frames, audio)

    def _check(self, request: Request) -> None:
        limits = self.config.limits
        if not limits:
            return
        (low, high), step = limits["seconds"], limits["seconds_step"]
        steps = request.seconds / step
        if not low <= request.seconds <= high or abs(steps - round(steps)) > 1e-6:
            raise InputError(f"seconds must be {low:g} to {high:g} in steps of {step:g}, got {request.seconds:g}")
        if list(request.pixels) not in [list(size) for size in limits["sizes"]]:
            sizes = ", ".join(f"{w}x{h}" for w, h in limits["sizes"])
            raise InputError(f"width x height must be one of {sizes}, got {request.size}")

    def save_config(self, save_directory: str | Path, push_to_hub: bool = False, **options: Any) -> None:
        """Also write the code, so that the saved folder is as whole as the one that this was loaded from."""
        if push_to_hub:
            raise InputError("the index alone is of no use to others: push with save_pretrained or push_to_hub")
        super().save_config(save_directory, **options)
        target, code = Path(save_directory), Path(__file__).parent
        values = {
            "_diffusers_version": self.config.get("_diffusers_version"),
            "limits": self.config.limits,
            "sampling": self.config.sampling,
        }
        write_index(target, values)
        for file in (Path(__file__), *sorted(code.glob(f"{PREFIX}*.py"))):
            for place in (target / name for name in PARTS) if file.stem == POINTER else (target,):
                shutil.copyfile(file, place / file.name)
        card = Path(str(self.config.get("_name_or_path", ""))) / "README.md"
        if card.is_file() and not (target / card.name).exists():
            shutil.copyfile(card, target / card.name)


class _PipelineMaker(Maker):
    """Makes films with the parts of a pipeline."""

    def __init__(self, pipe: PhonofilmPipeline) -> None:
        self._pipe, self.defaults = pipe, Defaults(**(pipe.config.sampling or {}))
        self.device = pipe.transformer.device

    @cached_property
    def codec(self) -> Codec:
        return Codec(self._pipe.vae.net, self._pipe.audio_vae.net, hash="of the pipeline")

    @property
    def tokenizer(self) -> Tokenizer:
        found: Tokenizer = self._pipe.text_encoder.tokenizer
        return found

    @property
    def _model(self) -> tuple[Denoiser, TextEncoder, str]:
        return self._pipe.transformer.net, self._pipe.text_encoder.net, ""

    @property
    def timer(self) -> Timer:
        found: Timer = self._pipe.timer.net
        return found

    def film(self, request: Request, given: Mapping[str, Clip], callback: Callable[[Progress], None]) -> Clip:
        frames = latents.frames_from_seconds(request.seconds)
        images = images_of(given, [], frames)
        strip, _ = self._strip(request, dict(given), [], frames, images)
        made = self.sample(
            [request.prompt], [request.seed], strip, steps=request.steps, guidance=request.guidance,
            negative=request.negative_prompt, callback=callback,
        )  # fmt: skip
        pieces = list(self._decode(made, 0, request, dict(given), images))
        samples = np.concatenate([sound for _, sound in pieces if sound is not None], axis=1)
        return Clip(np.concatenate([shown for shown, _ in pieces]), NATIVE_FPS, Audio(samples, NATIVE_RATE))


def _seed(generator: torch.Generator | None) -> int:
    """The seed of an untouched generator, else the next number that it draws; either way it moves on."""
    if generator is None:
        return int(torch.randint(2**62, ()))
    seed = generator.initial_seed()
    untouched = torch.Generator(generator.device).manual_seed(seed).get_state()
    fresh = torch.equal(untouched, generator.get_state())
    drawn = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return seed % 2**63 if fresh else drawn


def _still(picture: Still, size: tuple[int, int]) -> Clip:
    """A picture as a clip of one frame, of `size` (width, height)."""
    if isinstance(picture, Image.Image):
        array: NDArray[Any] = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    elif isinstance(picture, Tensor):
        array = picture.detach().float().cpu().squeeze(0).permute(1, 2, 0).numpy()
    else:
        array = np.asarray(picture)
    if array.dtype != np.uint8:
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    return to_native(Clip(np.ascontiguousarray(array)[None], NATIVE_FPS), size)


def _output(clips: Sequence[Clip], kind: str) -> tuple[Any, Any]:
    """Frames and sounds as the caller wishes them."""
    audio = np.stack([clip.audio.samples for clip in clips if clip.audio is not None])
    if kind == "pil":
        return [[Image.fromarray(frame) for frame in clip.frames] for clip in clips], audio
    frames = np.stack([clip.frames for clip in clips]).astype(np.float32) / 255
    if kind == "pt":
        return torch.from_numpy(frames).permute(0, 1, 4, 2, 3), torch.from_numpy(audio)
    return frames, audio
