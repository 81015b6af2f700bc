"""Captioned clips of one's own for the trainers of the codecs: decoded once, then at hand in any order.

Shapes: T frames, H height, W width, N samples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from phonofilm.clip import NATIVE_RATE
from phonofilm.data.folder import Folder
from phonofilm.errors import InputError, OutputError
from phonofilm.files import replacing
from phonofilm.train.codec import Footage

SECONDS: Final = 2.0  # of each clip's sound, from somewhere in it
LEAST: Final = 32  # frames: shorter clips go on with their last one
LISTING: Final = "clips.json"


class OwnClips:
    """The clips of a folder, pictures on disk as plain arrays and sounds in memory; a source of `Films` and `Sounds`.

    Clip number i is one of all, which come in another order each time round; it is the same however often it is asked
    for.
    """

    def __init__(self, folder: Path, out: Path, progress: Callable[[int, int], None] | None = None) -> None:
        """Decode what is in `folder` into a folder of `out` of which there is one for each state of `folder`, unless it
        lies there already.

        progress(done, total): clips. Raises InputError where no clip can be read, OutputError where `out` cannot be
        written.
        """
        items = Folder(folder)
        keep = out / f"decoded-{items.digest[:12]}"
        if not (keep / LISTING).exists():
            try:
                self._decode(items, keep, progress)
            except OSError as error:
                raise OutputError(f"cannot write {keep}: {error.strerror or error}") from error
        count = json.loads((keep / LISTING).read_text(encoding="utf-8"))["clips"]
        self.pictures = [np.load(keep / f"{k}.npy", mmap_mode="r") for k in range(count)]
        heard = np.load(keep / "sounds.npz")
        self.tracks = [heard[name] for name in heard.files]

    @staticmethod
    def _decode(items: Folder, keep: Path, progress: Callable[[int, int], None] | None) -> None:
        keep.mkdir(parents=True, exist_ok=True)
        tracks: list[np.ndarray[Any, np.dtype[np.float32]]] = []
        count = 0
        for item in items:
            frames = item.clip.frames
            short = max(0, LEAST - len(frames))
            np.save(keep / f"{count}.npy", np.pad(frames, ((0, short), (0, 0), (0, 0), (0, 0)), mode="edge"))
            if item.has_audio and item.clip.audio is not None:
                tracks.append(item.clip.audio.samples[0])
            count += 1
            if progress is not None:
                progress(count, len(items))
        if not count:
            raise InputError(f"{items.root}: none of its {len(items)} clips could be read")
        np.savez(keep / "sounds.npz", *tracks)
        with replacing(keep / LISTING) as beside:  # last: without it, what lies there does not count
            beside.write_text(json.dumps({"clips": count}), encoding="utf-8")

    def films(self, numbers: Sequence[int]) -> list[Footage]:
        """See `codec.Films`."""
        return [Footage(torch.from_numpy(np.array(_pick(self.pictures, i)))) for i in numbers]

    def sounds(self, numbers: Sequence[int]) -> Tensor:
        """See `codec.Sounds`: `SECONDS` of each, from somewhere in it, silence behind what is shorter."""
        length = round(SECONDS * NATIVE_RATE)
        parts = np.zeros((len(numbers), length), np.float32)
        for part, i in zip(parts, numbers, strict=True):
            track = _pick(self.tracks, i)
            begin = int(np.random.default_rng([1, i]).integers(max(1, len(track) - length + 1)))
            heard = track[begin : begin + length]
            part[: len(heard)] = heard
        return torch.from_numpy(parts)


def _pick(of: Sequence[Any], number: int) -> Any:
    turn, k = divmod(number, len(of))
    return of[int(np.random.default_rng(turn).permutation(len(of))[k])]
