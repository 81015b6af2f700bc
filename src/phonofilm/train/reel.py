"""Clips that are filmed on a GPU while others learn from them: a reel in memory that several processes share.

Actors, events and sounds are made by processes on the CPU, the picture is painted and encoded on the GPU, several
hundred clips at once. What the reel will hold is fixed by its seed; how much it holds, grows.

Shapes: B clips, T video latents in time, H x W latents, S columns of sound, K actors.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from phonofilm.clip import FORMATS
from phonofilm.codec.codec import Codec
from phonofilm.latents import (
    AUDIO_CHANNELS,
    COLUMNS_PER_LATENT,
    FRAMES_PER_LATENT,
    PIXELS_PER_LATENT,
    VIDEO_CHANNELS,
    frames_from_seconds,
    latents_from_frames,
)
from phonofilm.playhouse.render import Sight, render
from phonofilm.playhouse.scene import COLOURS, KINDS, Performance
from phonofilm.train.alignment import COVER, HEARD, listen
from phonofilm.train.footage import SECONDS, SIZES, Bucket, Footage, group_plan, one_kind

GROUP: Final = 256  # clips that are painted together
PART: Final = 32  # of them that are performed, and encoded, together
EVEN: Final = 0.5  # share of the clips with one kind of actor, each kind alike
FIRST_SEED: Final = 3 * 10**9  # far from what is filmed on a CPU, and from what is measured

Play = tuple[list[Performance], np.ndarray[Any, Any], np.ndarray[Any, Any]]
"""Performances, their sounds (B, N) float32, and what is heard (B, S, len(HEARD) + 1) uint8."""


def shared(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros that processes share which are forked later: anonymous memory, no files, no limit but the machine's."""
    size = math.prod(shape) * dtype.itemsize
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(*shape)


def about(group: int) -> list[dict[str, Any]]:
    """Seed, length and, for one half, the kind of actor of each clip of a group."""
    rows: list[dict[str, Any]] = []
    for k in range(GROUP):
        seed = FIRST_SEED + group * GROUP + k
        rows.append({"seed": seed, "seconds": group_plan(group)[1]})
        if k < EVEN * GROUP:
            rows[-1]["kinds"] = one_kind(seed)
    return rows


def empty_reel(clips: int) -> list[Bucket]:
    """Buckets for at least so many clips, of all formats and lengths, none of which is filmed yet."""
    groups = math.ceil(clips / GROUP)
    buckets: dict[tuple[str, float], Bucket] = {}
    for group in range(min(groups, len(SIZES) * len(SECONDS))):
        buckets.setdefault(group_plan(group), Bucket({}, [], shared((1,), torch.int64)))
    for group in range(groups):
        buckets[group_plan(group)].about.extend(about(group))
    for (name, seconds), bucket in buckets.items():
        T = latents_from_frames(frames_from_seconds(seconds))
        W, H = (side // PIXELS_PER_LATENT for side in FORMATS[name])
        n, S = len(bucket.about), T * COLUMNS_PER_LATENT
        shapes = {
            "video_z": (VIDEO_CHANNELS, T, H, W), "first_still": (VIDEO_CHANNELS, 1, H, W),
            "last_still": (VIDEO_CHANNELS, 1, H, W), "audio_z": (AUDIO_CHANNELS, S),
        }  # fmt: skip
        bucket.tensors = {name: shared((n, *shape), torch.float16) for name, shape in shapes.items()}
        bucket.tensors["seen"] = shared((n, 2, T, H, W), torch.uint8)
        bucket.tensors["heard"] = shared((n, S, len(HEARD) + 1), torch.uint8)
    return list(buckets.values())


def play(rows: Sequence[Mapping[str, Any]], size: tuple[int, int], sound: bool = True) -> Play:
    """Perform the scenes of these rows of a reel, and make their sounds."""
    from phonofilm.playhouse.casting import draw_scene
    from phonofilm.playhouse.sound import synthesize
    from phonofilm.playhouse.stage import perform

    scenes = [draw_scene(a["seed"], "train", kinds=a.get("kinds"), seconds=a["seconds"]) for a in rows]
    plays = [perform(scene, size) for scene in scenes]
    if not sound:
        return plays, np.zeros((len(plays), 0), np.float32), np.zeros((len(plays), 0, len(HEARD) + 1), np.uint8)
    heard = np.stack([listen(p) for p in plays])
    return plays, synthesize(plays).numpy(), heard


class _Plays(IterableDataset[Any]):
    """Performances of the groups of a reel, in parts, each worker its own share of every group."""

    def __init__(self, sound: bool, seconds: float | None, first: int) -> None:
        self.sound, self.seconds, self.first = sound, seconds, first

    def __iter__(self) -> Iterator[Play]:
        info = get_worker_info()
        at, step = (info.id, info.num_workers) if info else (0, 1)
        parts = GROUP // PART
        for part in count(at, step):
            group = self.first + part // parts
            rows = about(group)[part % parts * PART :][:PART]
            if self.seconds is not None:
                rows = [{**row, "seconds": self.seconds} for row in rows]
            yield play(rows, FORMATS[group_plan(group)[0]], self.sound)


def plays(workers: int, *, sound: bool = True, seconds: float | None = None, first: int = 0) -> Iterator[Play]:
    """Groups of a reel from `first` on without end, performed by processes. seconds: instead of the groups' own."""
    parts: list[Play] = []
    for part in _loader(_Plays(sound, seconds, first), workers):
        parts.append(part)
        if len(parts) == GROUP // PART:
            yield [p for part in parts for p in part[0]], *(np.concatenate([p[k] for p in parts]) for k in (1, 2))  # type: ignore[misc]
            parts = []


class _Sounds(IterableDataset[Any]):
    def __init__(self, batch: int) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        at, step = (info.id, info.num_workers) if info else (0, 1)
        for number in count(at, step):
            rows = [
                {"seed": 2 * FIRST_SEED + k, "seconds": 2.0} | ({"kinds": one_kind(k)} if k % 2 else {})
                for k in range(number * self.batch, (number + 1) * self.batch)
            ]
            yield play(rows, FORMATS["square"])[1]


def sounds(workers: int, batch: int) -> Callable[[Sequence[int]], Tensor]:
    """Fresh sounds (B, N) of 2 s, made ahead by processes; which clips are asked for does not matter."""
    source = iter(_loader(_Sounds(batch), workers))
    return lambda indices: torch.from_numpy(next(source))


def film(reel: Sequence[Bucket], codec: Codec, workers: int) -> Iterator[int]:
    """Fill a reel; yields how many clips there are after each group."""
    groups = sum(len(b.about) for b in reel) // GROUP
    plans = list(dict.fromkeys(group_plan(group) for group in range(groups)))
    where = dict(zip(plans, reel, strict=True))
    source = plays(workers)
    for group in range(groups):
        name, _ = plan = group_plan(group)
        bucket, (performances, audio, heard) = where[plan], next(source)
        assert bucket.filled is not None
        frames, sights = render(performances, FORMATS[name], device=codec.device)
        rows = slice(int(bucket.filled), int(bucket.filled) + GROUP)
        kinds = np.array([_who(p) for p in performances])
        bucket.tensors["seen"][rows] = seen(
            shelf_boxes(sights).to(codec.device), torch.from_numpy(kinds), frames.shape[2:4]
        ).cpu()
        bucket.tensors["heard"][rows] = torch.from_numpy(heard)
        samples = torch.from_numpy(audio)
        for part in range(0, GROUP, PART):
            span = slice(rows.start + part, rows.start + part + PART)
            shot = frames[part : part + PART]
            encode = codec.encode_frames
            for what, z in (
                ("video_z", encode(shot)), ("first_still", encode(shot[:, :1])), ("last_still", encode(shot[:, -1:])),
                ("audio_z", codec.encode_samples(samples[part : part + PART])),
            ):  # fmt: skip
                bucket.tensors[what][span] = z.half().cpu()
        bucket.filled += GROUP
        yield (group + 1) * GROUP


def _who(play: Performance) -> list[list[int]]:
    """Kind and colour of both actors, 1.., 0 for none."""
    who = [[KINDS.index(a.kind) + 1, COLOURS.index(a.colour) + 1 if a.colour else 0] for a in play.scene.actors]
    return who + [[0, 0]] * (2 - len(who))


def shelf_boxes(sights: Sequence[Sequence[Sight]]) -> Tensor:
    """(B, 2, frames, 4) float32: boxes of one or two actors; who is missing is nowhere (NaN)."""
    nowhere = np.full_like(sights[0][0].box, np.nan)
    pairs = [([sight.box for sight in both] + [nowhere])[:2] for both in sights]
    return torch.from_numpy(np.stack([np.stack(pair) for pair in pairs]))


def seen(boxes_BKF4: Tensor, who_BK2: Tensor, picture: Sequence[int]) -> Tensor:
    """`alignment.truth_maps`' "seen" (B, 2, T, H, W) uint8, of all clips at once.

    boxes: in pixels, NaN where nothing is to be seen. who: kind and colour, 1.., 0 for none. picture: rows, columns.
    """
    H, W = (side // PIXELS_PER_LATENT for side in picture)
    boxes = (boxes_BKF4.float() / PIXELS_PER_LATENT).nan_to_num(-1.0)

    def inside(low: Tensor, high: Tensor, cells: int) -> Tensor:
        place = torch.arange(cells, device=boxes.device)
        return (torch.minimum(high[..., None], place + 1) - torch.maximum(low[..., None], place)).clamp(0, 1)

    left, top, right, bottom = boxes.unbind(-1)
    cover = inside(top, bottom, H)[..., :, None] * inside(left, right, W)[..., None, :]  # (B, K, F, H, W)
    cover = cover.unflatten(2, (-1, FRAMES_PER_LATENT)).mean(3)
    most = torch.full_like(cover[:, 0], COVER)
    shown = torch.zeros(len(boxes), 2, *cover.shape[2:], dtype=torch.uint8, device=boxes.device)
    for slot in range(cover.shape[1]):
        here = cover[:, slot] > most
        most = torch.where(here, cover[:, slot], most)
        for k in range(2):
            value = who_BK2[:, slot, k].to(boxes.device, torch.uint8)[:, None, None, None]
            shown[:, k] = torch.where(here, value, shown[:, k])
    return shown


class _Batches(IterableDataset[Any]):
    def __init__(self, footage: Footage, first: int) -> None:
        self.footage, self.first = footage, first

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        at, step = (info.id, info.num_workers) if info else (0, 1)
        for number in count(self.first + at, step):
            batch = self.footage.at(number)
            yield {name: _packed(name, x) if isinstance(x, Tensor) else x for name, x in batch.items()}


def _packed(name: str, x: Tensor) -> np.ndarray[Any, Any]:
    """Latents as they lie on the reel, for the way through a pipe."""
    array: np.ndarray[Any, Any] = (x.half() if name.endswith(("_z", "_still")) else x).numpy()
    return array


class Ahead:
    """The batches of a `Footage`, made ahead by other processes; the same ones in the same order.

    They come through pipes rather than shared files, which containers often have too little room for.
    """

    def __init__(self, footage: Footage, workers: int) -> None:
        self.footage, self.workers = footage, workers

    def __call__(self, step: int) -> Iterator[dict[str, Any]]:
        for batch in _loader(_Batches(self.footage, step), self.workers):
            yield {name: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for name, x in batch.items()}


def _loader(source: IterableDataset[Any], workers: int) -> DataLoader[Any]:
    workers = min(workers, os.cpu_count() or 1)
    return DataLoader(
        source, batch_size=None, num_workers=workers, collate_fn=_as_it_is, prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if workers else None,
    )  # fmt: skip


def _as_it_is(x: Any) -> Any:
    return x
