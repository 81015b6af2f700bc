"""The engines by name: what each can do, known without loading anything heavy, and how to load it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from phonofilm.clip import FORMATS, NATIVE_FPS, NATIVE_RATE
from phonofilm.engines.engine import Capabilities, Engine
from phonofilm.errors import InputError

NATIVE: Final = Capabilities(
    name="native",
    conditions=("first", "last", "continue", "audio", "video", "mask"),
    seconds=(2.0, 4.0),
    seconds_step=0.25,
    sizes=tuple(FORMATS.values()),
    fps=NATIVE_FPS,
    sample_rate=NATIVE_RATE,
    samplers=("euler", "heun", "adams"),
)

CATALOGUE: Final = {"native": NATIVE, "fake": Capabilities(**{**vars(NATIVE), "name": "fake"})}
"""What each engine can do. "fake" makes plain moving colours at once: to try a server, and to test one."""


def capabilities(name: str) -> Capabilities:
    """Raises InputError that names the engines there are."""
    if name not in CATALOGUE:
        raise InputError(f"model must be one of {', '.join(CATALOGUE)}, got {name!r}")
    return CATALOGUE[name]


def load(name: str, weights: Path | None = None) -> Engine:
    """An engine by name; `weights` for another folder than the shipped one. Raises InputError for an unknown name."""
    capabilities(name)
    if name == "fake":
        from phonofilm.engines.fake import FakeEngine

        return FakeEngine()
    from phonofilm.engines.native import NativeEngine

    return NativeEngine(weights)
