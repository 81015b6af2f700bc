"""Engines: the only place where the parts become a generator."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from phonofilm.clip import Clip
from phonofilm.engines.catalogue import CATALOGUE, capabilities, load
from phonofilm.engines.engine import Capabilities, Chunk, Engine, Hooks, Progress, join
from phonofilm.engines.scoring import composer, scored, wish
from phonofilm.request import Request

if TYPE_CHECKING:
    from phonofilm.engines.native import NativeEngine

__all__ = [
    "CATALOGUE", "Capabilities", "Chunk", "Engine", "Hooks", "NativeEngine", "Progress", "capabilities", "generate",
    "join", "load", "score",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "NativeEngine":  # brings torch
        from phonofilm.engines.native import NativeEngine

        return NativeEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def generate(prompt: str | Request, **options: Any) -> Clip:
    """Make a clip from a sentence; `options` are the fields of `Request`, and change those of one that is given.

    The native engine stays loaded between calls; another `model` is loaded for each.

    >>> clip = phonofilm.generate("a red ball bounces on a wooden floor", seconds=3, seed=7)
    """
    request = replace(prompt, **options) if isinstance(prompt, Request) else Request(prompt, **options)
    return join(_engine(request.model).generate(request))[0]


def score(clip: Clip, prompt: str | Request, **options: Any) -> Clip:
    """`clip` with its own picture and a sound made for it; `options` are fields of `Request`, such as model and seed.

    >>> film = phonofilm.score(media.read("silent.mp4"), "rain on a tin roof", seed=7)

    Raises InputError for a single picture, and for a model that makes no sound for a given picture.
    """
    request = replace(prompt, **options) if isinstance(prompt, Request) else wish(clip, prompt, **options)
    composer(request.model)
    return scored(clip, request, _engine(request.model))[0]


def _engine(model: str) -> Engine:
    global _native
    if model != "native":
        return load(model)
    if _native is None:
        from phonofilm.engines.native import NativeEngine

        _native = NativeEngine()
    return _native


_native: NativeEngine | None = None
