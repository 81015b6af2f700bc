"""Where films lie: a folder, or an object store that fsspec reaches (s3://BUCKET/FOLDER)."""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from phonofilm.errors import InputError, OutputError

_NAME: Final = re.compile(r"(?!\.)[A-Za-z0-9_.:-]+(/(?!\.)[A-Za-z0-9_.:-]+)*")
BLOCK: Final = 1 << 18  # bytes


class Storage:
    """Files by name; a name appears when all of it is there."""

    def __init__(self, place: str) -> None:
        """place: a folder, or a URL of a scheme that fsspec knows. Raises InputError if it cannot be used."""
        import fsspec

        try:
            options = {"use_listings_cache": False} if "://" in place else {"auto_mkdir": True}
            self._system, self._root = fsspec.core.url_to_fs(place, **options)
        except (ImportError, ValueError) as error:
            raise InputError(f"cannot store films in {place!r}: {error}") from error
        self.local = "file" in _protocols(self._system)

    def put(self, source: Path, name: str) -> None:
        """Copy a finished file in. Raises OutputError; then nothing of that name is there that was not before."""
        target = self._path(name)
        try:
            if self.local:
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                beside = f"{target}.{uuid.uuid4().hex}.part"
                try:
                    self._system.put_file(str(source), beside)
                    _to_disk(beside)
                    Path(beside).replace(target)
                    _to_disk(str(Path(target).parent))
                finally:
                    Path(beside).unlink(missing_ok=True)
            else:
                self._system.put_file(str(source), target)  # object stores show whole objects alone
        except OSError as error:
            raise OutputError(f"cannot store {name}: {error.strerror or error}") from error

    def size(self, name: str) -> int:
        """Bytes of a file. Raises FileNotFoundError."""
        return int(self._system.size(self._path(name)))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes [start, stop) of a file, in blocks. Raises FileNotFoundError."""
        with self._system.open(self._path(name), "rb") as file:
            file.seek(start)
            left = (self.size(name) if stop is None else stop) - start
            while left > 0 and (block := file.read(min(BLOCK, left))):
                left -= len(block)
                yield block

    def file(self, name: str) -> Path | None:
        """Where a file lies on this machine; None in an object store."""
        return Path(self._path(name)) if self.local else None

    def fetch(self, name: str, target: Path) -> Path:
        """Copy a file out. Raises FileNotFoundError."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self._system.get_file(self._path(name), str(target))
        return target

    def names(self, folder: str) -> list[str]:
        """Names of all files below a folder."""
        root = self._path(folder)
        try:
            found = self._system.find(root)
        except FileNotFoundError:
            return []
        return [f"{folder}/{str(item)[len(root) :].lstrip('/')}" for item in found]

    def remove(self, folder: str) -> None:
        """Remove a folder, or a file, with all that is in it; nothing happens if it is not there."""
        try:
            self._system.rm(self._path(folder), recursive=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(f"cannot remove {folder}: {error.strerror or error}") from error

    def clear(self, older_than: float = 3600.0) -> None:
        """Remove what processes left that were killed while they wrote, so many seconds ago."""
        if self.local:
            for part in Path(self._root).rglob("*.part"):
                with contextlib.suppress(FileNotFoundError):
                    if part.stat().st_mtime < time.time() - older_than:
                        part.unlink()

    def _path(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise InputError(f"a stored file cannot be named {name!r}")
        return f"{self._root.rstrip('/')}/{name}"


def _to_disk(path: str) -> None:
    """Wait until a file, or the names in a folder, would survive the loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _protocols(system: Any) -> tuple[str, ...]:
    names = system.protocol
    return (names,) if isinstance(names, str) else tuple(names)


def upload_name(owner: str, digest: str) -> str:
    """Where an upload lies in the storage."""
    return f"uploads/{owner}/{digest.removeprefix('sha256:')}"
