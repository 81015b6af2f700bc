"""Writing so that a file is whole or is not there, and the folder of what is kept."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from phonofilm.errors import OutputError

HOME_VARIABLE: Final = "PHONOFILM_HOME"


def home() -> Path:
    """The folder of this installation: $PHONOFILM_HOME, or phonofilm in $XDG_DATA_HOME (~/.local/share)."""
    if own := os.environ.get(HOME_VARIABLE):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "phonofilm"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; when the block ends well it takes the place of `path`, else it goes.

    An OSError in the block becomes an OutputError that names the target.
    """
    path = Path(path)
    beside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        beside = Path(name)
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(handle, 0o666 & ~mask)
        ours = os.fstat(handle).st_ino
        os.close(handle)
        yield beside
        if beside.stat().st_ino != ours:  # some libraries put a file of their own there, which nobody else could read
            beside.chmod(0o666 & ~mask)
        os.replace(beside, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)
