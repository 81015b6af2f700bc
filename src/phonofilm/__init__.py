"""Phonofilm: type a sentence, get a short film whose picture and sound were made together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from phonofilm.clip import Audio, Clip
from phonofilm.request import Adapter, Condition, Request

if TYPE_CHECKING:
    from phonofilm.engines import generate, score

__version__ = "0.1.0"
__all__ = ["Adapter", "Audio", "Clip", "Condition", "Request", "__version__", "generate", "score"]


def __getattr__(name: str) -> Any:
    """What makes films loads torch, so it is looked up when it is first used."""
    if name in ("generate", "score"):
        from phonofilm import engines

        return getattr(engines, name)
    raise AttributeError(f"module 'phonofilm' has no attribute {name!r}")
