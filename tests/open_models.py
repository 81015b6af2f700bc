"""What the tests of open models share: the smallest request, an engine for it, its picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tiny_open import CALLS

from phonofilm.engines.open import OpenEngine
from phonofilm.request import Condition, Request

Checkpoint = Callable[[str], Path]
"""A folder with the tiny checkpoint of that key."""


def wish(key: str, roles: tuple[str, ...] = (), given: dict[str, str] | None = None, **options: Any) -> Request:
    """The smallest film of a family."""
    call = CALLS[key]
    frames = int(call.get("num_frames", call.get("frames", 9)))
    conditions = tuple(Condition(role, (given or {})[role]) for role in roles)  # type: ignore[arg-type]
    size = f"{call.get('width', 32)}x{call.get('height', 32)}"
    return Request(
        str(call["prompt"]),
        **{"size": size, "steps": 2, "seconds": max(0.25, frames / 24), "seed": 3, "conditions": conditions, **options},
    )


def engine(folder: Path) -> OpenEngine:
    return OpenEngine(str(folder), "cpu", precision="fp32")


def picture_of(made: Any) -> Any:
    found = np.asarray(next(made[name] for name in ("frames", "videos", "video") if name in made))
    return found[0] if found.ndim == 5 else found
