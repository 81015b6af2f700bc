"""The engines by name: what each can do, known without loading anything heavy, and how to load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

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


def is_open(name: str) -> bool:
    """Whether a name is that of an open model: a folder, or ORG/NAME."""
    return name not in CATALOGUE and ("/" in name or Path(name).is_dir())


def capabilities(name: str) -> Capabilities:
    """Raises InputError that names the engines there are."""
    if is_open(name):
        from phonofilm.engines.open import OpenEngine

        return OpenEngine(name).capabilities
    if name not in CATALOGUE:
        raise InputError(
            f"model must be one of {', '.join(CATALOGUE)}, a folder or ORG/NAME of an open model, got {name!r}", "model"
        )
    return CATALOGUE[name]


def load(name: str, weights: Path | None = None, **options: Any) -> Engine:
    """An engine by name; `weights` for another folder than the shipped one, of native alone. Raises InputError for an
    unknown name, and for choices that the engine does not have.

    options: of an open model, see `OpenEngine`.
    """
    if is_open(name):
        if weights is not None:
            raise InputError(f"weights is a choice for native: the folder of an open model is its name, got {weights}")
        from phonofilm.engines.open import OpenEngine

        return OpenEngine(name, **options)
    capabilities(name)
    if given := [option for option, value in options.items() if value is not None]:
        raise InputError(f"{given[0]} is a choice for open models, {name} has none", given[0])
    if weights is not None and name != "native":
        raise InputError(f"weights is a choice for native, {name} has none", "weights")
    if name == "fake":
        from phonofilm.engines.fake import FakeEngine

        return FakeEngine()
    from phonofilm.engines.native import NativeEngine

    return NativeEngine(weights)
