"""Engines: the only place where the parts become a generator."""

from __future__ import annotations

from typing import Any

from phonofilm.clip import Clip
from phonofilm.engines.engine import Capabilities, Chunk, Engine, Hooks, Progress, join
from phonofilm.engines.native import NativeEngine
from phonofilm.request import Request

__all__ = ["Capabilities", "Chunk", "Engine", "Hooks", "NativeEngine", "Progress", "generate", "join"]


def generate(prompt: str | Request, **options: Any) -> Clip:
    """Make a clip from a sentence; `options` are the fields of `Request`. The engine stays loaded between calls.

    >>> clip = phonofilm.generate("a red ball bounces on a wooden floor", seconds=3, seed=7)
    """
    request = prompt if isinstance(prompt, Request) else Request(prompt, **options)
    return join(_engine().generate(request))[0]


def _engine() -> NativeEngine:
    global _native
    if _native is None:
        _native = NativeEngine()
    return _native


_native: NativeEngine | None = None
