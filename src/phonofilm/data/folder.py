"""A folder of captioned clips, whatever their codecs, rates, sizes and rotations."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from phonofilm.clip import NATIVE_FPS, NATIVE_RATE, Audio, Clip, lasting, samples_in, to_native
from phonofilm.errors import InputError, MediaError
from phonofilm.media import Limits, read, read_audio
from phonofilm.request import MAX_PROMPT

log = logging.getLogger(__name__)

SUFFIXES: Final = frozenset(".mp4 .mov .m4v .mkv .webm .avi .ogv .ogg .gif .png .jpg .jpeg .webp".split())
"""What counts as a clip beside its .txt; in metadata.jsonl any name does."""
_SILENCE: Final = 1e-4  # a track that never gets louder (-80 dB) is no sound to learn from


@dataclass(frozen=True)
class Entry:
    """One line of the list: a clip, its caption, and sound from another file, if there is one."""

    video: Path
    caption: str
    audio: Path | None = None


@dataclass(frozen=True, eq=False)
class Captioned:
    """A clip ready to be learnt from.

    clip: native rate and size, frames a multiple of 4 (a picture: 1), sound mono at 16 kHz of exactly its length;
    where `has_audio` is False the sound is silence (a picture: None) and must not count in the audio loss.
    """

    clip: Clip
    caption: str
    has_audio: bool
    path: Path


class Folder:
    """`clip.mp4` + `clip.txt` (UTF-8), or `metadata.jsonl` whose lines have `video`, `caption`, optional `audio`.

    >>> for item in Folder("clips"):
    ...     item.clip.frames, item.caption, item.has_audio

    Iteration is in a fixed order. What cannot be used is logged as a warning, kept in `skipped` (one line each,
    from the last iteration) and passed over.

    root: the folder, searched with its subfolders. size: (width, height) for all, None: for each the native format of
    the nearest shape. seconds: clips are cut there. trusted: decode in this process (see `media.read`).
    Raises InputError when the folder is missing or lists no clip.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        size: tuple[int, int] | None = None,
        seconds: float = 4.0,
        limits: Limits | None = None,
        trusted: bool = False,
    ) -> None:
        self.root, self.size, self.seconds = Path(root), size, seconds
        self.limits, self.trusted = limits, trusted
        self._unlisted: list[str] = []
        if not self.root.is_dir():
            raise InputError(f"{root}: there is no such folder")
        listing = self.root / "metadata.jsonl"
        self.entries = self._from_listing(listing) if listing.is_file() else self._from_names()
        self.skipped = list(self._unlisted)
        if not self.entries:
            raise InputError(f"{root}: holds no clip with a caption (clip.mp4 + clip.txt, or metadata.jsonl)")
        for line in self._unlisted:
            log.warning("%s", line)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def digest(self) -> str:
        """Hexadecimal; another one as soon as a file or a caption is another. Files are told by name, size and time."""
        told = [
            (
                os.path.relpath(e.video, self.root),
                e.caption,
                *(_stamp(path) for path in (e.video, e.audio) if path is not None),
            )
            for e in self.entries
        ]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def __iter__(self) -> Iterator[Captioned]:
        yield from (item for _, item in self.readable())

    def readable(self, without: Collection[int] = ()) -> Iterator[tuple[int, Captioned]]:
        """The clips with their places in `entries`, but for some places."""
        self.skipped = list(self._unlisted)
        for number, entry in enumerate(self.entries):
            if number in without:
                continue
            try:
                item = self.load(entry)
            except (MediaError, OSError) as error:
                self.skipped.append(str(error))
                log.warning("skipped: %s", error)
            else:
                yield number, item

    def load(self, entry: Entry) -> Captioned:
        """Read one entry. Raises MediaError."""
        clip = read(
            entry.video, limits=self.limits, trusted=self.trusted, size=self.size or "native", seconds=self.seconds
        )
        sound = clip.audio
        if entry.audio is not None:
            sound = read_audio(entry.audio, limits=self.limits, trusted=self.trusted, seconds=self.seconds)
        if clip.picture:
            return Captioned(Clip(clip.frames, NATIVE_FPS), entry.caption, False, entry.video)
        whole = to_native(Clip(clip.frames, clip.fps, sound), (clip.width, clip.height))
        frames = whole.frames[: max(4, len(whole.frames) // 4 * 4)]
        if len(frames) < 4:
            frames = np.pad(frames, ((0, 4 - len(frames)), (0, 0), (0, 0), (0, 0)), mode="edge")
        length = len(frames) / NATIVE_FPS
        heard = whole.audio
        has_audio = heard is not None and float(np.abs(heard.samples).max(initial=0)) > _SILENCE
        if heard is None:
            heard = Audio(np.zeros((1, samples_in(length, NATIVE_RATE)), np.float32), NATIVE_RATE)
        return Captioned(Clip(frames, NATIVE_FPS, lasting(heard, length)), entry.caption, has_audio, entry.video)

    def _from_names(self) -> list[Entry]:
        entries: list[Entry] = []
        for path in sorted(self.root.rglob("*")):
            if path.suffix.lower() not in SUFFIXES or not path.is_file() or path.name.startswith("."):
                continue
            text = path.with_suffix(".txt")
            try:
                caption = text.read_text(encoding="utf-8")
            except FileNotFoundError:
                self._unlisted.append(f"{path}: has no caption, {text.name} is missing")
                continue
            except (OSError, UnicodeDecodeError) as error:
                self._unlisted.append(f"{text}: cannot be read ({error})")
                continue
            self._add(entries, Entry(path, _tidy(caption)))
        return entries

    def _from_listing(self, listing: Path) -> list[Entry]:
        entries: list[Entry] = []
        for number, line in enumerate(listing.read_bytes().splitlines(), start=1):
            if not line.strip():
                continue
            where = f"{listing}, line {number}"
            try:
                told = json.loads(line)
                if not isinstance(told, dict):
                    raise ValueError("is not an object")
                for name in ("video", "caption"):
                    if not isinstance(told.get(name), str):
                        raise ValueError(f"lacks a text {name!r}")
                audio = told.get("audio")
                if audio is not None and not isinstance(audio, str):
                    raise ValueError("'audio' is not a text")
                sound = self._inside(audio) if audio else None
                entry = Entry(self._inside(told["video"]), _tidy(told["caption"]), sound)
            except ValueError as error:
                self._unlisted.append(f"{where}: {error}")
                continue
            self._add(entries, entry)
        return entries

    def _add(self, entries: list[Entry], entry: Entry) -> None:
        if entry.caption:
            entries.append(entry)
        else:
            self._unlisted.append(f"{entry.video}: its caption is empty")

    def _inside(self, name: str) -> Path:
        """A path of the listing, which must stay within the folder."""
        path = self.root / name
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise ValueError(f"{name!r} lies outside of the folder")
        return path


def _tidy(caption: str) -> str:
    return " ".join(caption.split())[:MAX_PROMPT]


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
