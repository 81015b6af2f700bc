"""The parser's templates of looks and sounds, made once from renders of the playhouse and frozen beside this file.

Frozen, so that the measure stays the same while models change; `build` makes them again after a change of the world.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from phonofilm.files import replacing

FILE: Final = Path(__file__).with_name("templates.npz")


@lru_cache(maxsize=1)
def _load() -> dict[str, NDArray[Any]]:
    with np.load(FILE, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def read(*names: str) -> list[NDArray[Any]]:
    """The named arrays of the file of templates. Raises KeyError for one that it lacks."""
    arrays = _load()
    return [arrays[name] for name in names]


def build(path: Path = FILE) -> None:
    """Film, hear and write all templates. Takes about a minute; the same on every run on one machine."""
    from phonofilm.evaluate import bank, hearing

    arrays: dict[str, Any] = {**bank.build(), **hearing.build()}
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **arrays)
    _load.cache_clear()
