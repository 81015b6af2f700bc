"""The built-in engine: text encoder → denoiser → codec, on the weights that this project trained.

Shapes: B strips, N tokens, D = 128 width of a token, L text tokens, C channels of the text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from phonofilm import checkpoint, latents
from phonofilm.clip import FORMATS, NATIVE_FPS, NATIVE_RATE, Audio, Clip, to_native
from phonofilm.codec.codec import Codec
from phonofilm.diffusion.sampler import Progress as Step
from phonofilm.diffusion.samplers import SAMPLERS
from phonofilm.energy import Meter, Receipt
from phonofilm.engines.catalogue import CATALOGUE
from phonofilm.engines.engine import Capabilities, Chunk, Hooks, Progress, join
from phonofilm.engines.making import CONTEXT, LONGEST, Defaults, Maker, exactly, images_of
from phonofilm.engines.tiers import TIERS
from phonofilm.errors import Cancelled, CheckpointError, InputError
from phonofilm.latents import Geometry, Latents
from phonofilm.media import read, read_audio, read_mask
from phonofilm.model.denoiser import Denoiser, DenoiserConfig
from phonofilm.model.timer import FILE as TIMER_FILE
from phonofilm.model.timer import Timer, load_timer
from phonofilm.request import Request
from phonofilm.text.encoder import TextEncoder, TextEncoderConfig
from phonofilm.text.matcher import Matcher, MatcherConfig
from phonofilm.text.tokenizer import Tokenizer

BEYOND: Final = 0.25  # seconds of given media that are read beyond what is needed
MATCHED: Final = latents.seconds_from_latents(LONGEST)  # of a clip that is matched with a sentence
SAMPLING_FILE: Final = "sampling.json"  # beside the weights: how they are best sampled, where not by `Defaults()`


def shipped_weights() -> Path:
    """The folder of the weights in the package."""
    return Path(str(files("phonofilm"))) / "weights"


def stored_defaults(path: Path) -> Defaults:
    """The sampler settings in a file: a JSON object with some fields of `Defaults`, which may be missing. Raises
    CheckpointError for anything else."""
    if not path.exists():
        return Defaults()
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        settings = replace(Defaults(), **{name: _like(getattr(Defaults, name), v) for name, v in found.items()})
        if settings.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {settings.sampler!r}")
        return settings
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} holds no sampler settings: {error}") from error


def _like(known: object, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float) if isinstance(known, float) else type(known)):
        raise TypeError(f"{value!r} should be like {known!r}")
    if isinstance(value, (int, float)) and not value >= 0:
        raise ValueError(f"{value!r} is below 0")
    return value


class NativeEngine(Maker):
    """Generator on a folder of weights (codec, tokenizer, denoiser, matcher), each loaded when first used."""

    def __init__(self, weights: str | Path | None = None, device: str | None = None, defaults: Defaults | None = None):
        self.folder = Path(weights) if weights is not None else shipped_weights()
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.defaults = defaults or stored_defaults(self.folder / SAMPLING_FILE)

    @property
    def capabilities(self) -> Capabilities:
        return CATALOGUE["native"]

    # --- parts ------------------------------------------------------------------------------------------------------
    @cached_property
    def codec(self) -> Codec:
        return Codec.load(self.folder, device=self.device)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.folder / "tokenizer.json")

    @cached_property
    def _model(self) -> tuple[Denoiser, TextEncoder, str]:
        stored = checkpoint.load(self.folder / "denoiser.safetensors", kind="denoiser")
        denoiser = Denoiser(DenoiserConfig.stored(stored.config["denoiser"]))
        text = TextEncoder(TextEncoderConfig(**stored.config["text"]))
        for prefix, module in (("denoiser.", denoiser), ("text.", text)):
            module.load_state_dict(
                {k.removeprefix(prefix): v for k, v in stored.tensors.items() if k.startswith(prefix)}
            )
        denoiser.to(self.device, denoiser.compute).eval()
        return denoiser, text.to(self.device).float().eval(), stored.hash

    @cached_property
    def matcher(self) -> Matcher:
        stored = checkpoint.load(self.folder / "matcher.safetensors", kind="matcher")
        matcher = Matcher(MatcherConfig(**stored.config))
        matcher.load_state_dict(stored.tensors)
        return matcher.to(self.device).float().eval()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all files of weights, the tokenizer and what is beside them: on each depends what is made."""
        found = hashlib.sha256()
        beside = [self.folder / "tokenizer.json", *self.folder.glob(SAMPLING_FILE)]
        for path in sorted([*self.folder.glob("*.safetensors"), *beside]):
            found.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return found.hexdigest()

    @cached_property
    def timer(self) -> Timer | None:
        path = self.folder / TIMER_FILE
        return load_timer(path, self.device) if path.exists() else None

    # --- generation -------------------------------------------------------------------------------------------------
    def generate(self, request: Request, hooks: Hooks | None = None) -> Iterator[Chunk]:
        """Chunks of one clip. A continuation begins with the given clip.

        Raises InputError for what cannot be done, Cancelled within one step of `hooks.cancelled()` turning true.
        """
        self.capabilities.check(request)
        return self._generate(request, hooks or Hooks(), None)

    def make(self, request: Request, given: Mapping[str, Clip]) -> Clip:
        """One clip, with conditions as native clips by role instead of as files."""
        self.capabilities.check(request)
        return join(self._generate(request, Hooks(), given))[0]

    @torch.no_grad()
    def _generate(self, request: Request, hooks: Hooks, clips: Mapping[str, Clip] | None) -> Iterator[Chunk]:
        with Meter(gpu=self.device) as meter:
            with meter.stage("load"):
                self._model, self.codec  # noqa: B018 (loads them)
            if unknown := self.tokenizer.unknown_words(request.prompt):
                hooks.notes.append(f"words that the model never saw: {', '.join(unknown)}")
            if unread := self.tokenizer.unread(request.prompt):
                hooks.notes.append(f"the prompt is too long, its end is not read: {unread.strip()}")
            with meter.stage("condition"):
                hooks.progress(Progress("condition", 0, 1))
                given = self._read_conditions(request, hooks.notes) if clips is None else dict(clips)
            past: list[Clip] = [given["continue"]] if "continue" in given else []
            if past and "first" in given:
                hooks.notes.append("the first image is not used: the clip that is continued has a beginning")
            if past:
                yield self._chunk(past[0].frames, past[0].audio.samples if past[0].audio else _silence(past[0]), None)
            frames_left = 1 if request.picture else latents.frames_from_seconds(request.seconds)
            while frames_left > 0:
                images = images_of(given, past, frames_left)
                with meter.stage("condition"):
                    strip, keep_from = self._strip(request, given, past, frames_left, images)
                with meter.stage("denoise"):
                    made = self._denoise(request, strip, hooks, len(past))
                frames_left -= (
                    latents.frames_from_latents(strip.geometry.latents - keep_from) if not request.picture else 1
                )
                pieces = []
                with meter.stage("decode"):
                    for frames, samples in self._decode(
                        made, keep_from, request, given, images, past[-1].frames[-1] if past else None
                    ):
                        pieces.append((frames, samples))
                        done = len(pieces)
                        hooks.progress(Progress("decode", done, max(done, strip.geometry.latents)))
                        if frames_left > 0 or request.picture:
                            yield self._chunk(frames, samples, None)
                            continue
                        if done > 1:
                            yield self._chunk(*pieces[-2], None)
                if frames_left > 0:
                    past = [_join(pieces)]
        receipt = Receipt.of(meter, asdict(request), request.seed, self.digest)
        if request.picture:
            yield Chunk(np.zeros((0, *pieces[0][0].shape[1:]), np.uint8), None, NATIVE_FPS, NATIVE_RATE, receipt)
        else:
            yield self._chunk(*pieces[-1], receipt)

    def _chunk(self, frames: np.ndarray, samples: np.ndarray | None, receipt: Receipt | None) -> Chunk:
        return Chunk(frames, samples, NATIVE_FPS, NATIVE_RATE, receipt)

    def _read_conditions(self, request: Request, notes: list[str]) -> dict[str, Clip]:
        """The given media, made native: size, rate, mono 16 kHz. A mask keeps its size. notes: gets what is cut off."""
        given: dict[str, Clip] = {}
        for condition in request.conditions:
            if condition.path is None:
                raise InputError(
                    f"the condition {condition.role!r} must be a file here, got the digest {condition.digest}"
                )
            size = request.pixels
            if condition.role == "audio":
                sound = read_audio(condition.path, seconds=request.seconds + BEYOND)
                notes += _fitting(condition.path, sound.seconds, request.seconds, "silence")
                blank = np.zeros((latents.frames_from_seconds(request.seconds), size[1], size[0], 3), np.uint8)
                clip = to_native(Clip(blank, NATIVE_FPS, sound), size)
            elif condition.role == "mask":
                clip = read_mask(condition.path)
            else:
                whole = condition.role in ("last", "continue")
                most = None if whole else BEYOND if condition.role == "first" else request.seconds + BEYOND
                clip = to_native(read(condition.path, size=size, seconds=most), size)
                if condition.role == "video":
                    notes += _fitting(condition.path, clip.seconds, request.seconds, "its last frame")
            if condition.role in ("first", "last"):
                clip = Clip(clip.frames[:1] if condition.role == "first" else clip.frames[-1:], NATIVE_FPS)
            if condition.role == "continue" and len(clip.frames) < latents.FRAMES_PER_LATENT * CONTEXT:
                need = latents.seconds_from_latents(CONTEXT)
                raise InputError(
                    f"a clip to continue must last at least {need:g} s, {condition.path} lasts {clip.seconds:.2f}"
                )
            given[condition.role] = clip
        return given

    def _denoise(self, request: Request, strip: Latents, hooks: Hooks, part: int) -> Latents:
        seeds = [
            (request.seed + k * 0x9E3779B97F4A7C15 + part * 0x632BE59BD9B4E019) % 2**63 for k in range(request.best_of)
        ]

        def watch(_: Step) -> None:
            if hooks.cancelled():
                raise Cancelled("the generation was cancelled")

        def report(step: Step) -> None:
            hooks.progress(Progress("denoise", step.step, step.steps))
            watch(step)
            if hooks.preview is not None:
                video_z, _, _ = latents.unpack(
                    Latents(step.x0_BND[:1, : strip.geometry.n], strip.geometry, strip.mask_BN)
                )
                assert video_z is not None
                hooks.preview(self.codec.decode_frames(video_z)[0].cpu().numpy())

        steps = request.steps or TIERS[request.quality].of(self.defaults.steps)
        made = self.sample(
            [request.prompt] * len(seeds), seeds, strip, steps=steps, guidance=request.guidance,
            sampler=request.sampler, negative=request.negative_prompt, match_guidance=request.match_guidance,
            callback=report, watch=watch,
        )  # fmt: skip
        if request.best_of > 1:
            scores = self._score([request.prompt], made)
            best = int(scores.argmax())
            hooks.notes.append(f"kept number {best + 1} of {request.best_of} (match {float(scores[best]):.3f})")
            made = Latents(made.values_BND[best : best + 1], made.geometry, made.mask_BN[best : best + 1])
        return made

    def _judge(self, prompts: Sequence[str], geometry: Geometry, batch: int) -> Callable[[Tensor], Tensor]:
        g, wanted = geometry, self.matcher.embed_text(*self._ids(prompts))
        places, modality = g.positions().to(self.device), g.modality().to(self.device)
        plain = (g.role() == latents.PLAIN).to(self.device).expand(batch, -1)
        return lambda x0: self.matcher.score(wanted, x0[:, : g.n], places, modality, keep_BN=plain)

    def _score(self, prompts: Sequence[str], strip: Latents) -> Tensor:
        plain = (strip.role == latents.PLAIN).expand(len(strip.values_BND), -1)
        wanted = self.matcher.embed_text(*self._ids(prompts))
        return self.matcher.score(wanted, strip.values_BND, strip.positions, strip.modality, keep_BN=plain)

    # --- matching ---------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def match(self, prompt: str, clip: Clip) -> float:
        """How well a sentence matches a clip: cosine in [-1, 1]."""
        return float(self._score([prompt], self._laid_out(clip))[0])

    @torch.no_grad()
    def match_all(self, prompts: Sequence[str], clips: Sequence[Clip]) -> np.ndarray:
        """How well each sentence matches each clip, (prompts, clips): cosines in [-1, 1]."""
        wanted = self.matcher.embed_text(*self._ids(prompts))
        strips = [self._laid_out(clip) for clip in clips]
        found = [self.matcher.embed_strip(s.values_BND, s.positions, s.modality) for s in strips]
        return (wanted @ torch.cat(found).T).cpu().numpy()

    def _laid_out(self, clip: Clip) -> Latents:
        native = to_native(clip)
        count = min(len(native.frames) // 4 * 4, latents.frames_from_latents(LONGEST)) or 4
        return latents.pack(*self.codec.encode(exactly(native, count)))

    @torch.no_grad()
    def make_batch(
        self, prompts: Sequence[str], seeds: Sequence[int], seconds: float = 3.0,
        size: tuple[int, int] = FORMATS["square"],
        **options: Any,
    ) -> list[Clip]:  # fmt: skip
        """Many clips of one length and size at once, without conditions: what the evaluation uses."""
        strip = self._empty(Geometry.of_clip(size[0], size[1], seconds))
        made = self.sample(prompts, seeds, strip, **options)
        video_z, audio_z, _ = latents.unpack(made)
        assert video_z is not None and audio_z is not None
        return [self.codec.decode(video_z[i : i + 1], audio_z[i : i + 1]) for i in range(len(seeds))]


def _silence(clip: Clip) -> np.ndarray:
    return np.zeros((1, latents.samples_from_frames(len(clip.frames))), np.float32)


def _join(pieces: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> Clip:
    samples = np.concatenate([s for _, s in pieces if s is not None], 1)
    return Clip(np.concatenate([f for f, _ in pieces]), NATIVE_FPS, Audio(samples, NATIVE_RATE))


def _fitting(path: str, lasts: float, wanted: float, filling: str) -> list[str]:
    """What to tell of given media that are longer or shorter than the film, by more than a frame."""
    if abs(lasts - wanted) <= 1 / NATIVE_FPS:
        return []
    if lasts > wanted:
        return [f"{path} is longer than the film: only its first {wanted:g} s are used (see seconds)"]
    return [f"{path} lasts {lasts:.2f} s and the film {wanted:g} s: {filling} follows it (see seconds)"]
