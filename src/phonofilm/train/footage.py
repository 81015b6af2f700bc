"""What the denoiser and the matcher learn from: latents of playhouse clips, or of a folder, kept on disk.

The clips of one batch share format and length (a bucket). What the batch of step n holds depends on the seed and n.
Shapes: B clips, T latent frames, H x W latents, S sound columns.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phonofilm.clip import FORMATS
from phonofilm.codec.codec import Codec
from phonofilm.data.cache import LatentCache
from phonofilm.data.folder import Folder
from phonofilm.errors import InputError, PhonofilmError
from phonofilm.latents import PATCH, PIXELS_PER_LATENT, tokens_from_pixels
from phonofilm.playhouse.scene import FACES, KINDS, Performance, Scene
from phonofilm.processes import end_with_parent
from phonofilm.storyboard import to_tokens
from phonofilm.train.alignment import claimed, listen, spoken, truth_maps

log = logging.getLogger(__name__)

GROUP = 16  # clips that are filmed together
SIZES = ("square", "square", "square", "portrait", "landscape")  # groups take turns
SECONDS = (3.0, 2.0, 3.0, 4.0)
SOUND = ("audio_z", "heard", "first_still", "last_still")  # what a batch of sound alone holds
CANDIDATES = {"speed": 8, "walls": 32, "lips": 8}  # scenes of which the most demanding one is filmed, see `demand`
SOUNDS = 4  # times as many clips in a batch of sound alone, whose strips are short
FRESH = 0.75  # share of them that is of fresh scenes, where those can be encoded
TOKENS = 192  # of picture, in a square clip of 3 s: what a batch's nominal size refers to


def group_plan(group: int) -> tuple[str, float]:
    """Format and length of the clips of a group: every format meets every length."""
    return SIZES[group % len(SIZES)], SECONDS[(group // len(SIZES)) % len(SECONDS)]


def film_playhouse(
    weights: Path,
    directory: Path,
    clips: int,
    *,
    device: str = "cpu",
    workers: int = 1,
    seed: int = 0,
    hard: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[LatentCache]:
    """Film and encode playhouse clips until `directory` holds `clips`; goes on where an earlier call stopped.

    Group g is made by worker g % workers, a process of one thread each, into a cache of its own; what is filmed does
    not depend on the number of workers.
    weights: the folder of the codec. hard: share of the clips with demanding scenes, a third of them for each reason,
    see `demand`; such films belong into a directory of their own. progress: gets groups done, and groups in all.
    """
    groups = math.ceil(clips / GROUP)
    tasks = [
        (weights, directory / f"{w:02d}-of-{workers:02d}", range(w, groups, workers), device, seed, hard)
        for w in range(workers)
    ]
    if workers == 1:
        caches = [_film_groups(*tasks[0], lambda done: progress(done, groups) if progress else None)]
    else:
        context = torch.multiprocessing.get_context("spawn")
        processes = [context.Process(target=_film_groups, args=task, daemon=True) for task in tasks]
        for process in processes:
            process.start()
        while any(process.is_alive() for process in processes):
            for process in processes:
                process.join(2.0)
            if progress is not None:
                progress(sum(len(list(task[1].glob("0*.safetensors"))) for task in tasks), groups)
        if failed := [p.exitcode for p in processes if p.exitcode]:
            raise PhonofilmError(f"filming failed: a worker ended with code {failed[0]}")
        digest = Codec.load(weights).hash
        caches = [LatentCache(task[1], digest) for task in tasks]
    return caches


def _film_groups(
    weights: Path,
    directory: Path,
    groups: range,
    device: str,
    seed: int,
    hard: float,
    done: Callable[[int], None] | None = None,
) -> LatentCache:
    """One worker's share; with no `done` it is a process of its own, of one thread, which ends with its parent."""
    from phonofilm.playhouse.playhouse import take

    if done is None:
        end_with_parent()
        torch.set_num_threads(1)
    codec = Codec.load(weights, device)
    cache = LatentCache(directory, codec.hash)
    for group in groups[len(cache) :]:
        name, seconds = group_plan(group)
        seeds = [seed * 1_000_000_007 + group * GROUP + k for k in range(GROUP)]
        for k, why in zip(range(round(hard * GROUP)), cycle(CANDIDATES), strict=False):
            first = 10**12 + seeds[k] * max(CANDIDATES.values())  # far above the seeds of what is filmed otherwise
            seeds[k] = max(range(first, first + CANDIDATES[why]), key=partial(demand, seconds=seconds, why=why))
        shot = take(seeds, "train", seconds, FORMATS[name], codec.device)
        tensors = encode_batch(codec, shot.frames, shot.audio) | truth_maps(shot)
        cache.append(tensors, [{"seed": s, "seconds": seconds} for s in seeds])
        if done is not None:
            done(len(cache))
    return cache


def demand(seed: int, seconds: float, why: str = "speed") -> float:
    """How hard the scene of a seed is to paint, for one reason of `CANDIDATES`.

    speed: that of its fastest actor, in his own radii a frame, which only a tenth of the frames exceeds; rain, of thin
    streaks, is the hardest. walls: 1 where a ball rolls behind one, 2 where that ball is white or black, as is the
    wall's outline. lips: how small the face is that speaks, 1 / radius in world units (the mouth of a small one has few
    latents). 0 where there is nothing of the kind.
    """
    from phonofilm.playhouse.casting import draw_scene
    from phonofilm.playhouse.stage import perform, radius

    scene = draw_scene(seed, "train", seconds=seconds)
    if why == "walls":
        hidden = [actor.colour for actor in scene.actors if actor.act == "behind"]
        return float(bool(hidden)) + float(any(colour in ("white", "black") for colour in hidden))
    if why == "lips":
        return max((1 / radius(scene, actor) for actor in scene.actors if actor.word is not None), default=0.0)
    if any(actor.kind == "rain" for actor in scene.actors):
        return math.inf
    speeds = [np.hypot(np.diff(t.x), np.diff(t.y)) / t.radius[1:] for t in perform(scene).tracks]
    return max(float(np.quantile(speed, 0.9)) for speed in speeds)


def film_folder(codec: Codec, out: Path, folder: Path) -> LatentCache:
    """Encode a folder of captioned clips once, into a folder of `out` of which there is one for each state of `folder`.

    What was encoded before it was cut off is there. Raises InputError where no clip can be read.
    """
    items = Folder(folder)
    cache = LatentCache(out / f"folder-{codec.hash[:12]}-{items.digest[:12]}", codec.hash)
    known = {row["entry"] for shard in cache for row in shard.metadata}
    for number, item in items.readable(known):
        frames = torch.from_numpy(item.clip.frames)[None]
        samples = None if item.clip.audio is None else torch.from_numpy(item.clip.audio.samples[:1])
        about = {"caption": item.caption, "has_audio": item.has_audio, "entry": number}
        cache.append(encode_batch(codec, frames, samples), [about])
    if not len(cache):
        raise InputError(f"{folder}: none of its {len(items)} clips could be read")
    return cache


def encode_batch(codec: Codec, frames_BTHWC: Tensor, audio_BN: Tensor | None) -> dict[str, Tensor]:
    """Latents as float16: video_z, audio_z, and first and last frame as stills, first_still and last_still."""
    encode = codec.encode_frames
    made = {
        "video_z": encode(frames_BTHWC),
        "first_still": encode(frames_BTHWC[:, :1]),
        "last_still": encode(frames_BTHWC[:, -1:]),
    }
    if audio_BN is not None:
        made["audio_z"] = codec.encode_samples(audio_BN)
    return {name: z.to(torch.float16).cpu() for name, z in made.items()}


@dataclass
class Bucket:
    """All clips of one shape. filled: how many there are yet, of a reel that still grows; None for all."""

    tensors: dict[str, Tensor]
    about: list[dict[str, Any]]
    filled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.about) if self.filled is None else int(self.filled)


def gather(caches: Sequence[LatentCache]) -> list[Bucket]:
    """What lies in caches, by shape. Raises InputError if there is nothing."""
    gathered: dict[tuple[int, ...], list[Any]] = {}
    for cache in caches:
        for shard in cache:
            key = (*shard.tensors["video_z"].shape[2:], "audio_z" in shard.tensors)
            gathered.setdefault(key, []).append(shard)
    if not gathered:
        raise InputError("there are no clips to learn from")
    buckets = []
    for key in sorted(gathered):
        shards = gathered[key]
        tensors = {name: torch.cat([s.tensors[name] for s in shards]) for name in shards[0].tensors}
        buckets.append(Bucket(tensors, [row for s in shards for row in s.metadata]))
    return buckets


class Footage:
    """Latents in memory, by shape; a source of batches for the trainers of the denoiser and of the matcher."""

    def __init__(
        self,
        caches: Sequence[LatentCache] | Sequence[Bucket],
        batch: int,
        seed: int = 0,
        boards: float | None = None,
        sounds: float = 0.0,
        sketches: int = 8,
        speakers: float = 0.0,
        even: float = 0.0,
        pairs: float = 0.0,
        codec: Codec | None = None,
    ) -> None:
        """boards: share of batches that are storyboards alone, of scenes that were never filmed, `sketches` times as
        many clips as in others; None for no storyboards at all. Clips of a folder have none. sounds: share of the
        others that are sound and storyboard; codec: most of these are of fresh scenes, too, whose sound it encodes:
        that of few films is soon known by heart. speakers: share of the fresh scenes that is a face alone; even: share
        that is of one kind, each alike; pairs: share in which two actors play."""
        self.batch, self.seed, self.boards, self.sounds = batch, seed, boards, sounds
        self.sketches, self.speakers, self.even, self.pairs = sketches, speakers, even, pairs
        self.codec = codec
        ready = [c for c in caches if isinstance(c, Bucket)]
        self.buckets = ready or gather([c for c in caches if isinstance(c, LatentCache)])

    def __len__(self) -> int:
        return sum(len(b) for b in self.buckets)

    def __call__(self, step: int) -> Iterator[dict[str, Any]]:
        """Batches from that of step `step` on."""
        while True:
            yield self.at(step)
            step += 1

    def at(self, step: int) -> dict[str, Any]:
        """The batch of a step: latents float32, captions, has_audio (B,); of the playhouse also `truth_maps`,
        told and so (B, A), what the captions claim and what is so, board, the storyboards, and spoken, their words."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        weights = torch.tensor([float(len(b)) for b in self.buckets])
        nothing = self.boards and self.playhouse and not bool(weights.any())
        if self.boards and (torch.rand((), generator=generator) < self.boards or nothing) and self.playhouse:
            return self._fresh(generator, self.sketches)
        bucket = self.buckets[int(torch.multinomial(weights, 1, generator=generator))]
        shape = bucket.tensors["video_z"].shape
        tokens = shape[2] * shape[3] * shape[4] // 4
        count = max(1, min(round(self.batch * TOKENS / tokens / 4) * 4 or self.batch, 2 * self.batch))
        tensors = bucket.tensors
        if self.boards and torch.rand((), generator=generator) < self.sounds and "audio_z" in tensors:
            if self.codec is not None and self.playhouse and torch.rand((), generator=generator) < FRESH:
                return self._fresh(generator, SOUNDS, self.codec)
            tensors = {name: z for name, z in tensors.items() if name in SOUND}
            count *= SOUNDS
        rows = torch.randint(len(bucket), (count,), generator=generator)
        draws = torch.randint(2**31, (count,), generator=generator).tolist()
        batch: dict[str, Any] = {
            name: z[rows].float() if z.is_floating_point() else z[rows] for name, z in tensors.items()
        }
        about = [bucket.about[i] for i in rows.tolist()]
        told = [tell(a, draw) for a, draw in zip(about, draws, strict=True)]
        batch["captions"] = [t.caption for t in told]
        for name, numbers in (("told", [t.claims for t in told]), ("so", [t.so for t in told])):
            if all(row is not None for row in numbers):
                batch[name] = torch.tensor(numbers)
        if tensors is not bucket.tensors:
            batch["shape"] = shape[3] // PATCH, shape[4] // PATCH
        if self.boards is not None and self.playhouse:
            size = PIXELS_PER_LATENT * shape[4], PIXELS_PER_LATENT * shape[3]
            batch["board"], batch["spoken"] = (
                torch.stack(rows) for rows in zip(*(sketch(t.play(size), size) for t in told), strict=True)
            )
        batch["has_audio"] = torch.tensor([bool(a.get("has_audio", True)) for a in about])
        batch.setdefault("audio_z", None)
        return batch

    @property
    def playhouse(self) -> bool:
        return "seed" in self.buckets[0].about[0]

    def _fresh(self, generator: torch.Generator, times: int, codec: Codec | None = None) -> dict[str, Any]:
        """A batch of storyboards of fresh scenes, `times` as many as of films: board, spoken, shape, captions, told,
        so; with a codec their sound, too: audio_z, heard, has_audio."""
        name, seconds = group_plan(int(torch.randint(len(SIZES) * len(SECONDS), (), generator=generator)))
        first, *draws = torch.randint(2**31, (1 + times * self.batch,), generator=generator).tolist()
        # far above the seeds of what is filmed, and of what is measured
        seeds = [2**40 + first * len(draws) + k for k in range(len(draws))]
        faces, even, pairs = (round(share * len(seeds)) for share in (self.speakers, self.even, self.pairs))
        for k in range(faces + even, min(faces + even + pairs, len(seeds))):
            seeds[k] = in_company(seeds[k])

        def kinds(k: int, seed: int) -> dict[str, Any]:
            if k < faces:
                return {"kinds": FACES}
            return {"kinds": one_kind(seed)} if k < faces + even else {}

        told = [
            tell({"seed": s, "seconds": seconds} | kinds(k, s), draw)
            for k, (s, draw) in enumerate(zip(seeds, draws, strict=True))
        ]
        width, height = FORMATS[name]
        plays = [t.play((width, height)) for t in told]
        boards, words = zip(*(sketch(play, (width, height)) for play in plays), strict=True)
        batch = {
            "board": torch.stack(boards),
            "spoken": torch.stack(words),
            "audio_z": None,
            "shape": (tokens_from_pixels(height), tokens_from_pixels(width)),
            "captions": [t.caption for t in told],
            "told": torch.tensor([t.claims for t in told]),
            "so": torch.tensor([t.so for t in told]),
        }
        if codec is None:
            return batch
        from phonofilm.playhouse.sound import synthesize

        heard = torch.from_numpy(np.stack([listen(play) for play in plays]))
        audio_z = codec.encode_samples(synthesize(plays)).float().cpu().clone()  # not of inference mode
        return batch | {"audio_z": audio_z, "heard": heard, "has_audio": torch.ones(len(plays), dtype=torch.bool)}


def one_kind(seed: int) -> tuple[str]:
    """A kind of actor for this seed, each alike: the usual proportions make birds and rain rare."""
    return (KINDS[seed % len(KINDS)],)


def in_company(seed: int) -> int:
    """The first seed from this one on, in strides of 2**42, in whose scene two actors play: most have one."""
    from phonofilm.playhouse.casting import draw_scene

    while len(draw_scene(seed, "train").actors) < 2:
        seed += 2**42
    return seed


@dataclass(frozen=True)
class Told:
    """What is said of a clip, and for the playhouse which of CLAIMS are claimed, and which are so."""

    caption: str
    claims: list[int] | None = None
    so: list[int] | None = None
    scene: Scene | None = None

    def play(self, size: tuple[int, int]) -> Performance:
        """What is seen and heard in a picture of `size` (W, H)."""
        from phonofilm.playhouse.stage import perform

        assert self.scene is not None
        return perform(self.scene, size)


def sketch(play: Performance, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The storyboard (T, 128) of a performance for a picture of `size` (W, H), as on the strip, and `alignment.spoken`
    of it."""
    from phonofilm.playhouse.storyboard import storyboard

    board = to_tokens(storyboard(play, size))
    return board, spoken(play, len(board))


def tell(about: dict[str, Any], draw: int) -> Told:
    """The caption of a folder's clip, or one of the many wordings of a playhouse scene."""
    if "caption" in about:
        return Told(str(about["caption"]))
    from phonofilm.playhouse.captions import describe_with_claims
    from phonofilm.playhouse.casting import draw_scene

    scene = draw_scene(about["seed"], "train", kinds=about.get("kinds"), seconds=about["seconds"])
    caption, claims = describe_with_claims(scene, draw)
    return Told(caption, claimed(scene, claims), claimed(scene), scene)
