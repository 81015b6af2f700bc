"""An engine on any video pipeline of `diffusers`: the same request, progress and receipt as our own model."""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, Final, TypeVar

import numpy as np

from phonofilm import clip as clips
from phonofilm.clip import Audio, Clip
from phonofilm.energy import Meter, Receipt
from phonofilm.engines.engine import Capabilities, Chunk, Hooks, Progress
from phonofilm.engines.open.cached import StepCache
from phonofilm.engines.open.calibration import note
from phonofilm.engines.open.families import FAMILIES, Family, Way, able
from phonofilm.engines.open.fill import FILLS, Given
from phonofilm.engines.open.glimpse import glimpse
from phonofilm.engines.open.loading import adapt, compile_blocks, first_line, load_pipeline, pipeline_class
from phonofilm.engines.open.parallel import processes, share
from phonofilm.engines.open.plan import Machine, Plan, choose, here
from phonofilm.engines.open.source import Source, find
from phonofilm.engines.open.watch import Watch, networks, to_frames, to_samples
from phonofilm.engines.tiers import TIERS
from phonofilm.errors import CheckpointError, InputError, PhonofilmError
from phonofilm.request import Adapter, Request

log = logging.getLogger(__name__)

SHORTEST: Final = 0.25  # seconds
CONTEXT: Final = 2  # strides of frames that a continuation sees
Made = TypeVar("Made")


class OpenEngine:
    """Generator on an open-weight checkpoint: a folder in the layout of diffusers, or ORG/NAME that was fetched.

    device: "cpu" or "cuda", by default the best there is. precision, offload, tiled: instead of the plan's own choice.
    compiled: whether the blocks are compiled when first used, which takes a minute and pays for those who stay.
    Looks at configuration only until a film is to be made. Raises InputError for what is not there or not possible.
    """

    def __init__(
        self,
        name: str,
        device: str | None = None,
        *,
        precision: Any = None,
        offload: Any = None,
        tiled: bool | None = None,
        compiled: bool | None = None,
        source: Source | None = None,
    ) -> None:
        self.source = source or find(name)
        self.device, self.decided = device, {"precision": precision, "offload": offload, "tiled": tiled}
        self.compiled = bool(compiled)
        self.family = self.source.family or self._inspected()
        self._plans: list[Plan] = []  # the one in use, and those that it may be stepped down to
        self._pipes: dict[str, Any] = {}
        self._adapters: tuple[Adapter, ...] = ()
        self.counted = (0, 0)  # steps of the last film, and those of them that were continued instead of computed

    # --- what it can do -----------------------------------------------------------------------------------------------
    @property
    def ways(self) -> tuple[Way, ...]:
        """The pipeline classes that this checkpoint serves."""
        name = self.source.pipeline
        group = next(group for group in self.family.groups if any(way.pipeline == name for way in group))
        config = self._config("transformer")

        def able_to(way: Way) -> Way:
            lacking = {role for role, (a, b) in way.unless.items() if config.get(a) is not None and not config.get(b)}
            return replace(way, roles={role: form for role, form in way.roles.items() if role not in lacking})

        return tuple(able_to(way) for way in group)

    def _config(self, part: str) -> dict[str, Any]:
        """The configuration of a part, {} where there is none."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((self.source.folder / part / "config.json").read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else {}
        return {}

    @property
    def capabilities(self) -> Capabilities:
        family = self.family
        area, step = float(np.prod(family.size)), family.multiple

        def format_of(shape: tuple[int, int]) -> tuple[int, int]:
            scale = (area / (shape[0] * shape[1])) ** 0.5
            return max(step, round(shape[0] * scale / step) * step), max(step, round(shape[1] * scale / step) * step)

        wide = max(family.size), min(family.size)
        return Capabilities(
            name=self.source.name,
            conditions=tuple(dict.fromkeys(role for way in self.ways for role in way.roles)),
            seconds=(max(SHORTEST, (family.least - family.frames[0] + 1) / family.fps), family.longest / family.fps),
            seconds_step=0.0,
            sizes=(format_of((1, 1)), wide[::-1], wide),
            formats={"square": format_of((1, 1)), "portrait": wide[::-1], "landscape": wide},
            multiple=step,
            fps=family.fps,
            any_fps=bool(family.fps_name),
            sample_rate=self._rate() if family.sound else 0,
            steps=(1, 1000),
            adapters=True,
            own=False,
        )

    def check(self, request: Request) -> Way:
        """The way that serves a request. Raises InputError that names what is not possible, and the models that can."""
        capabilities = self.capabilities
        capabilities.check(request)
        roles = {condition.role for condition in request.conditions}
        if request.negative_prompt and not self.family.negative:
            raise InputError(f"{self.source.name} takes no negative prompt", "negative_prompt")
        if request.guidance is not None and not self.family.guidance_name:
            raise InputError(f"{self.source.name} has its guidance built in, it cannot be set", "guidance")
        for way in self.ways:
            if way.needs <= roles <= set(way.roles):
                return way
        needed = sorted({role for way in self.ways for role in way.needs} - roles)
        if needed and not any(roles <= set(way.roles) and not way.needs for way in self.ways):
            raise InputError(f"{self.source.name} needs {' and '.join(needed)} to begin with", needed[0])
        others = able(*roles) or ["none"]
        raise InputError(
            f"{self.source.name} cannot take {' and '.join(sorted(roles))}; models that can: {', '.join(others)}"
        )

    # --- generation ---------------------------------------------------------------------------------------------------
    def generate(self, request: Request, hooks: Hooks | None = None) -> Iterator[Chunk]:
        """Chunks of one clip. A continuation begins with the given clip.

        Raises InputError for what cannot be done, Cancelled before the next step once `hooks.cancelled()` is true.
        """
        return self._generate(request, self.check(request), hooks or Hooks())

    def _generate(self, request: Request, way: Way, hooks: Hooks) -> Iterator[Chunk]:
        fps, wanted, size = self._measures(request)
        if request.quality != "full":
            hooks.notes.append(note(self, request.quality))
        with Meter(gpu=self.machine.device, processes=processes()) as meter:
            with meter.stage("condition"):
                hooks.progress(Progress("condition", 0, 1))
                given = self._given(request, size, fps, wanted)
            pipe, made = self._make(request, way, given, hooks, meter)
            with meter.stage("decode"):
                clip = self._clip(pipe, made, size, fps, given.frames, wanted)
                if "continue" in given.clips:
                    clip = _behind(given.clips["continue"], clip)
        receipt = Receipt.of(meter, asdict(request), request.seed, self.source.digest)
        samples = None if clip.audio is None or request.picture else clip.audio.samples
        rate = clip.audio.sample_rate if clip.audio is not None else 0
        yield Chunk(clip.frames, samples, fps, rate, receipt)

    def raw(self, request: Request) -> Mapping[str, Any]:
        """What the pipeline itself returns, before it is cut and rounded: by the names of its output."""
        way = self.check(request)
        fps, wanted, size = self._measures(request)
        with Meter(gpu=self.machine.device, processes=processes()) as meter:
            return self._make(request, way, self._given(request, size, fps, wanted), Hooks(), meter)[1]

    def prepare(self, request: Request) -> None:
        """Load what a request needs, ahead of it."""
        way = self.check(request)
        self._fitting(
            request, self.family.made(self._measures(request)[1]), Hooks(), lambda plan: self._load(way, plan)
        )

    def _measures(self, request: Request) -> tuple[float, int, tuple[int, int]]:
        """Frames a second, frames, and (width, height) of what is asked for."""
        fps = request.fps or self.family.fps
        wanted = 1 if request.picture else max(1, round(request.seconds * fps))
        return fps, wanted, self.capabilities.pixels(request)

    def _make(
        self, request: Request, way: Way, given: Given, hooks: Hooks, meter: Meter
    ) -> tuple[Any, Mapping[str, Any]]:
        """The pipeline and its outputs by name."""
        fps, _, size = self._measures(request)

        def work(plan: Plan) -> tuple[Any, Mapping[str, Any]]:
            with meter.stage("load"):
                pipe = self._load(way, plan)
                self._adapt(pipe, request)
            return pipe, self._call(pipe, request, self._arguments(pipe, request, way, given, size, fps), hooks, meter)

        return self._fitting(request, given.frames, hooks, work)

    def _fitting(self, request: Request, frames: int, hooks: Hooks, work: Callable[[Plan], Made]) -> Made:
        """What `work` makes with the first plan whose memory suffices."""
        if not self._pipes:
            self._plans = self._choose(self._measures(request)[2], frames, hooks)
        while True:
            plan = self._plans[0]
            try:
                return work(plan)
            except MemoryError as error:
                self._drop()
                if len(self._plans) == 1:
                    told = f"out of memory with {plan}: ask for a smaller size or fewer seconds"
                    raise PhonofilmError(told) from error
                self._plans = self._plans[1:]
                hooks.notes.append(f"out of memory with {plan}; stepping down to {self._plans[0]}")
                log.warning("%s", hooks.notes[-1])

    def _given(self, request: Request, size: tuple[int, int], fps: float, wanted: int) -> Given:
        """The given media at the film's size and rate."""
        from phonofilm.media import read, read_mask

        found: dict[str, Clip] = {}
        for condition in request.conditions:
            if condition.path is None:
                raise InputError(f"the condition {condition.role!r} must be a file here, got {condition.digest}")
            most = {"video": wanted / fps + 1, "first": 1.0, "reference": 1.0}.get(condition.role)
            mask = condition.role == "mask"
            clip = read_mask(condition.path) if mask else read(condition.path, size=size, seconds=most)
            frames = clips.fit(clip.frames, *size)
            if condition.role in ("video", "continue"):
                frames = clips.retime(frames, clip.fps, fps)
            if condition.role == "mask":
                frames = np.where(frames > 127, 255, 0).astype(np.uint8)
            if condition.role == "reference":
                frames = frames[:1]
                if "reference" in found:
                    frames = np.concatenate([found["reference"].frames, frames])
            found[condition.role] = Clip(frames, fps, clip.audio)
        strengths: dict[str, float] = {condition.role: condition.strength for condition in request.conditions}
        made = self.family.made(wanted)
        if "continue" in found:
            made = self.family.made(wanted + self._context(found["continue"]))
        return Given(found, strengths, made)

    def _context(self, past: Clip) -> int:
        """Frames of the past that a continuation sees."""
        stride, offset = self.family.frames
        context = (CONTEXT if len(past.frames) >= CONTEXT * stride + offset else 1) * stride + offset
        if len(past.frames) < context:
            raise InputError(f"a clip to continue must have at least {context} frames, it has {len(past.frames)}")
        return context

    def _arguments(
        self, pipe: Any, request: Request, way: Way, given: Given, size: tuple[int, int], fps: float
    ) -> dict[str, Any]:
        """The keyword arguments of the pipeline's call."""
        import torch

        family = self.family
        call: dict[str, Any] = {
            "prompt": request.prompt, "width": size[0], "height": size[1], family.frames_name: given.frames,
            "generator": torch.Generator("cpu").manual_seed(request.seed), "output_type": "np", **family.call,
        }  # fmt: skip
        if request.steps is not None:
            call["num_inference_steps"] = request.steps
        elif (tier := TIERS[request.quality]).steps != 1:
            call["num_inference_steps"] = tier.of(family.steps)
        if request.guidance is not None:
            call[family.guidance_name] = request.guidance
        if request.negative_prompt:
            call["negative_prompt"] = request.negative_prompt
        if family.fps_name:
            call[family.fps_name] = fps
        context = given.clips
        if "continue" in context:
            tail = Clip(context["continue"].frames[-self._context(context["continue"]) :], fps)
            given = replace(given, clips={**context, "continue": tail})
        module = sys.modules[type(pipe).__module__]
        for role in given.clips:
            FILLS[way.roles[role]](call, given, role, module)
        if not family.modular:
            allowed = inspect.signature(type(pipe).__call__).parameters
            call = {name: value for name, value in call.items() if name in allowed}
        return call

    def _call(self, pipe: Any, request: Request, call: dict[str, Any], hooks: Hooks, meter: Meter) -> Mapping[str, Any]:
        """Run the pipeline under watch; returns its outputs by name."""
        import torch

        if hooks.preview is not None and "callback_on_step_end" in inspect.signature(type(pipe).__call__).parameters:
            call["callback_on_step_end"] = _previews(hooks.preview, (call["width"], call["height"]))
        steps = request.steps or int(call.get("num_inference_steps", self.family.steps))
        watch = Watch(hooks, meter, steps)
        tier = TIERS[request.quality]
        cache = StepCache(tier.threshold, tier.most, lambda: watch.done, lambda: watch.steps)
        try:
            with torch.no_grad(), watch.on(pipe), cache.on(networks(pipe) if tier.most else []):
                out = pipe(**call)
        except torch.OutOfMemoryError as error:
            raise MemoryError(str(error)) from error
        except RuntimeError as error:
            if "not enough memory" in str(error) or "out of memory" in str(error):
                raise MemoryError(str(error)) from error
            raise PhonofilmError(f"{self.source.pipeline} failed: {first_line(error)}") from error
        except (ValueError, TypeError, AssertionError) as error:
            if isinstance(error, PhonofilmError):
                raise
            raise InputError(f"{self.source.pipeline} does not take this: {first_line(error)}") from error
        self.counted = watch.steps, cache.continued
        if hasattr(out, "values") and not isinstance(out, Mapping):  # the state of a modular pipeline
            return dict(out.values)
        return dict(out)

    def _clip(
        self, pipe: Any, made: Mapping[str, Any], size: tuple[int, int], fps: float, count: int, wanted: int
    ) -> Clip:
        """The outputs as a clip of exactly the wanted frames, with sound of the same length."""
        found = next(
            (made[name] for name in ("frames", "videos", "video", "images") if made.get(name) is not None), None
        )
        if found is None:
            raise PhonofilmError(f"{self.source.pipeline} returned no picture, but {', '.join(made) or 'nothing'}")
        drop = max(0, count - self.family.made(wanted))  # what a continuation saw
        frames = to_frames(found)[drop:][:wanted]
        if frames.shape[2:0:-1] != size:
            frames = clips.fit(frames, *size)
        sound = made.get(self.family.sound) if self.family.sound else None
        if sound is None:
            return Clip(frames, fps)
        samples = to_samples(sound)
        rate = int(_follow(pipe, self.family.rate))
        begin = round(drop / fps * rate)
        return Clip(frames, fps, clips.lasting(Audio(samples[:, begin:], rate), len(frames) / fps))

    # --- parts --------------------------------------------------------------------------------------------------------
    def _choose(self, size: tuple[int, int], frames: int, hooks: Hooks) -> list[Plan]:
        """The plans that fit, the fastest first; the choice is told."""
        machine = self.machine
        found = choose(self.source, size, frames, machine, **self.decided)
        hooks.notes.append(f"{self.source.name}: {found[0]} (estimated) of {machine.free / 2**30:.1f} GiB free")
        return found

    @property
    def plan(self) -> Plan | None:
        """How it is loaded, once it is."""
        return self._plans[0] if self._plans else None

    @property
    def machine(self) -> Machine:
        """Where it runs."""
        machine = here()
        if self.device == "cpu" and machine.device != "cpu":
            return replace(machine, device="cpu", name="CPU", free=machine.memory)
        return machine

    def _load(self, way: Way, plan: Plan) -> Any:
        """The pipeline of a way; those of one group share their parts."""
        if way.pipeline in self._pipes:
            return self._pipes[way.pipeline]
        other = next(iter(self._pipes.values()), None)
        pipe = self._pipes[way.pipeline] = load_pipeline(self.source, way.pipeline, plan, self.family, other)
        if processes() > 1 and other is None:
            share(pipe, self.family)
        if self.compiled and other is None:
            compile_blocks(pipe)
        return pipe

    def _adapt(self, pipe: Any, request: Request) -> None:
        """Put the request's adapters on, and take others off."""
        if request.adapters != self._adapters:
            self._adapters = ()
            adapt(pipe, request.adapters, self.source.name)
            self._adapters = request.adapters

    def _drop(self) -> None:
        import gc

        import torch

        self._pipes.clear()
        self._adapters = ()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _rate(self) -> int:
        """The sample rate, as far as the configuration tells it before anything is loaded; else the usual one."""
        for part in ("vocoder", "sound_tokenizer", "audio_vae"):
            config = self._config(part)
            for name in ("output_sampling_rate", "sampling_rate", "sample_rate"):
                if isinstance(config.get(name), int):
                    return int(config[name])
        return 24_000

    def _inspected(self) -> Family:
        """What an unknown pipeline can do, by its signature and the decoder's configuration."""
        cls = pipeline_class(self.source.pipeline)
        allowed = inspect.signature(cls.__call__).parameters
        frames = next((name for name in ("num_frames", "frames", "video_length") if name in allowed), None)
        if frames is None or "prompt" not in allowed:
            known = ", ".join(family.title for family in FAMILIES)
            raise CheckpointError(f"{self.source.pipeline} makes no films from text; families that do: {known}")
        forms = {"image": "first", "last_image": "last", "video": "video"}
        roles = {role: form for form, role in forms.items() if form in allowed}
        needs = {role for role, form in roles.items() if allowed[form].default is inspect.Parameter.empty}

        def default(name: str, otherwise: int) -> int:
            value = allowed[name].default if name in allowed else None
            return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise

        config = self._config("vae")
        names = ("temporal_compression_ratio", "scale_factor_temporal", "temporal_ratio")
        stride = next((int(config[n]) for n in names if isinstance(config.get(n), int)), 4)
        rate = next((n for n in ("frame_rate", "fps") if n in allowed), "")
        return Family(
            self.source.pipeline, self.source.pipeline, ((Way(self.source.pipeline, roles, frozenset(needs)),),),
            (default("width", 512), default("height", 512)), (stride, 1), default(frames, 81),
            default(rate, 24) if rate else 16, "see the model card", fps_name=rate, frames_name=frames,
            guidance_name="guidance_scale" if "guidance_scale" in allowed else "",
            negative="negative_prompt" in allowed, mixed=False, steps=default("num_inference_steps", 50),
        )  # fmt: skip


def _previews(show: Callable[[np.ndarray], None], size: tuple[int, int]) -> Callable[..., dict[str, Any]]:
    """What a pipeline calls after each step."""

    def look(pipe: Any, _: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen = glimpse(tensors["latents"], pipe, size) if "latents" in tensors else None
        if seen is not None:
            show(seen)
        return {}

    return look


def _follow(start: Any, path: str) -> Any:
    for name in path.split("."):
        start = getattr(start, name)
    return start


def _behind(past: Clip, clip: Clip) -> Clip:
    """What was given, then what was made; silence where the given clip had no sound."""
    audio = None
    if clip.audio is not None:
        rate = clip.audio.sample_rate
        before = clips.resample(past.audio, rate).samples if past.audio else np.zeros((1, 1), np.float32)
        before = np.broadcast_to(before[:1], (clip.audio.channels, before.shape[1]))
        before = clips.lasting(Audio(np.ascontiguousarray(before), rate), past.seconds).samples
        audio = Audio(np.concatenate([before, clip.audio.samples], 1), rate)
    return Clip(np.concatenate([past.frames, clip.frames]), clip.fps, audio)
