"""A process's folder for temporary files, which goes with it: a later process clears it away if this one was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

_PREFIX: Final = "phonofilm-process."


class Scratch:
    """`folder` is this process's alone, and is locked for as long as the process lives."""

    def __init__(self, base: Path | None = None) -> None:
        """base: where to make it, None: where temporary files usually go. What killed processes left there goes."""
        base = base or Path(tempfile.gettempdir())
        for other in base.glob(f"{_PREFIX}*"):
            if (lock := _lock(other)) is not None:
                shutil.rmtree(other, ignore_errors=True)
                os.close(lock)
        while True:
            self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
            self._held = _lock(self.folder)
            if self._held is not None and self.folder.exists():  # nobody took it for one that was left
                return

    def install(self) -> None:
        """Let all temporary files of this process lie there."""
        tempfile.tempdir = str(self.folder)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._held is not None:
            os.close(self._held)
            self._held = None


def _lock(folder: Path) -> int | None:
    """An open descriptor that holds the folder, or None while another process does."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
        else:
            return descriptor
    return None
