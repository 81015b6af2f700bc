"""What every generator is: it declares what it can do, and turns a `Request` into chunks of a clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from phonofilm.clip import FORMATS, Audio, Clip
from phonofilm.energy import Receipt
from phonofilm.errors import InputError
from phonofilm.request import Request


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do; a request is checked against it before anything is loaded."""

    name: str
    conditions: tuple[str, ...]  # roles
    seconds: tuple[float, float]  # shortest and longest clip
    seconds_step: float  # lengths are multiples of this
    sizes: tuple[tuple[int, int], ...]  # (width, height) in pixels
    fps: float
    sample_rate: int  # Hz; 0 = silent
    steps: tuple[int, int] = (1, 100)
    samplers: tuple[str, ...] = ()
    multiple: int = 0  # where any size will do, its sides are multiples of this
    formats: Mapping[str, tuple[int, int]] = field(default_factory=lambda: FORMATS)  # sizes by name
    any_fps: bool = False  # whether other rates can be asked for
    adapters: bool = False  # whether it takes LoRA
    own: bool = True  # our model, whose matcher can choose and guide

    def pixels(self, request: Request) -> tuple[int, int]:
        """(width, height) of what is asked for."""
        return self.formats.get(request.size, request.pixels)

    def check(self, request: Request) -> None:
        """Raise InputError that names what is not possible and what is."""
        low, high = self.seconds
        if not request.picture:
            if not low <= request.seconds <= high:
                raise InputError(
                    f"{self.name} makes clips of {low:g} to {high:g} seconds, got {request.seconds:g}", "seconds"
                )
            step = self.seconds_step
            if step and abs(request.seconds / step - round(request.seconds / step)) > 1e-6:
                raise InputError(
                    f"{self.name} makes lengths in steps of {self.seconds_step:g} s, got {request.seconds:g}", "seconds"
                )
        if self.multiple:
            if any(side % self.multiple for side in self.pixels(request)):
                raise InputError(
                    f"{self.name} makes pictures whose sides are multiples of {self.multiple}, got {request.size!r}",
                    "size",
                )
        elif self.pixels(request) not in self.sizes:
            allowed = ", ".join(f"{w}x{h}" for w, h in self.sizes)
            raise InputError(f"{self.name} makes pictures of {allowed} pixels, got {request.size!r}", "size")
        if request.fps is not None and request.fps != self.fps and not self.any_fps:
            raise InputError(f"{self.name} makes {self.fps:g} frames a second, got {request.fps:g}", "fps")
        if request.steps is not None and not self.steps[0] <= request.steps <= self.steps[1]:
            raise InputError(
                f"{self.name} takes {self.steps[0]} to {self.steps[1]} steps, got {request.steps}", "steps"
            )
        if request.sampler is not None and request.sampler not in self.samplers:
            allowed = f"must be one of {', '.join(self.samplers)}" if self.samplers else f"is {self.name}'s own choice"
            raise InputError(f"sampler {allowed}, got {request.sampler!r}", "sampler")
        if not self.own and (request.best_of > 1 or request.match_guidance):
            name = "best_of" if request.best_of > 1 else "match_guidance"
            raise InputError(f"{name} needs the native model, whose matcher judges; {self.name} has none", name)
        roles = [condition.role for condition in request.conditions]
        for role in roles:
            if role not in self.conditions:
                able = ", ".join(self.conditions) or "no conditions"
                raise InputError(f"{self.name} takes {able}; it cannot take {role!r}", role)
        if self.own and request.picture and roles and roles != ["mask"]:
            raise InputError(f"a single picture is made from its prompt alone, it cannot take {roles[0]!r}", roles[0])
        if "mask" in roles and request.picture:
            raise InputError("mask changes a part of a film, a single picture cannot have one", "mask")
        if "mask" in roles and "continue" in roles:
            raise InputError(
                f"mask changes a part of one clip of up to {high:g} seconds, which cannot go on from another one at "
                "once: continue what comes of it afterwards", "mask",
            )  # fmt: skip
        for role in ("audio", "video"):
            if self.own and "continue" in roles and role in roles:
                raise InputError(
                    f"what follows a clip is made with its own picture and sound: continue takes no {role}", role
                )
        if request.adapters and not self.adapters:
            raise InputError(f"{self.name} takes no adapters", "adapters")


@dataclass(frozen=True)
class Progress:
    """How far a request is: `done` of `total` in a stage ("condition", "denoise", "decode")."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Chunk:
    """A piece of the clip, in order. The last one carries the receipt and ends it."""

    frames: np.ndarray  # (T, H, W, 3) uint8
    samples: np.ndarray | None  # (C, N) float32, of the same seconds; None in a silent clip
    fps: float
    sample_rate: int
    receipt: Receipt | None = None


@dataclass
class Hooks:
    """How the caller watches and stops a generation."""

    progress: Callable[[Progress], None] = lambda _: None
    preview: Callable[[np.ndarray], None] | None = None  # gets (T, H, W, 3) uint8 now and then while it denoises
    cancelled: Callable[[], bool] = lambda: False
    notes: list[str] = field(default_factory=list)  # what the user should know, such as words that the model never saw


class Engine(Protocol):
    """A generator of clips."""

    @property
    def capabilities(self) -> Capabilities: ...

    def generate(self, request: Request, hooks: Hooks | None = None) -> Iterator[Chunk]:
        """Chunks of one clip. Raises InputError for what it cannot do, Cancelled when it was stopped."""
        ...


def join(chunks: Iterator[Chunk]) -> tuple[Clip, Receipt | None]:
    """All chunks as one clip, and its receipt."""
    parts = list(chunks)
    frames = np.concatenate([c.frames for c in parts])
    sounds = [c.samples for c in parts if c.samples is not None]
    audio = Audio(np.concatenate(sounds, 1), parts[0].sample_rate) if sounds else None
    return Clip(frames, parts[0].fps, audio), parts[-1].receipt
