"""What blobs are parts of: recognition by the nearest looks among renders of the playhouse itself.

The bank was filmed once and is kept beside this file (`shelf`). Its scenes share no seed with any split.
Letters: N blobs asked for, M blobs of the bank, J nearest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from phonofilm.evaluate import shelf
from phonofilm.evaluate.background import View, foreground
from phonofilm.evaluate.blobs import BLACK, WHITE, Blobs, find_blobs, sides, whole
from phonofilm.playhouse.render import Sight, render
from phonofilm.playhouse.scene import (  # fmt: skip
    ACTS,
    CAMERAS,
    COLOURS,
    COUNTED,
    FACES,
    FLOORS,
    KINDS,
    LIGHTS,
    MATERIALS,
    MOVING,
    SIZES,
    Actor,
    Scene,
)
from phonofilm.playhouse.stage import camera, perform

Floats = NDArray[np.float32]

NONE: Final = -1  # no actor: moon, wall, eyes, parts of actors in another colour
NEAREST: Final = 5  # J
SCENES: Final = {"hued": 22, "white": 14, "black": 12}  # for each kind and act
PEOPLE: Final = ("woman", "man")  # alike, and of many looks: twice as many scenes
NONE_SHARE: Final = 0.4  # of the blobs that are no actors, how many are kept
PARTS: Final = ("looks", "axes", "middle", "kinds", "places")  # arrays of each shelf
AXES: Final = 128  # of the looks, the main ones
BLURRED: Final = 0.5  # of the scenes, how many are blurred
BLUR: Final = (0.5, 1.4)  # pixels
RATE: Final = 4.0  # frames per second of the bank
SECONDS: Final = 2.5
SEED: Final = 77_000_000


@dataclass(frozen=True)
class Guess:
    """What each of N blobs is: votes of its nearest looks."""

    kind: NDArray[np.intp]  # (N,) index into KINDS, or NONE
    sure: Floats  # (N,) share of the votes 0..1
    far: Floats  # (N,) distance of the nearest
    centre: Floats  # (N, 2) x, y of the actor, pixels
    radius: Floats  # (N,) of the actor, pixels


@dataclass(frozen=True)
class _Shelf:
    looks_MD: Floats  # in the main axes of all looks of the shelf
    axes_DL: Floats
    middle_L: Floats
    kind_M: NDArray[np.intp]
    place_M3: Floats  # centre and radius of the actor, beside the crop; nan where it is cut


def _group(colour: int) -> str:
    return {WHITE: "white", BLACK: "black"}.get(colour, "hued")


def _scenes() -> Iterator[Scene]:
    rng = np.random.default_rng(SEED)

    def one(kind: str, act: str, colour: str, index: int) -> Actor:
        return Actor(
            kind, act, colour, SIZES[index % 3], str(rng.choice(MATERIALS)) if kind == "ball" else None,
            str(rng.choice(["left", "right"])) if act in MOVING else None, str(rng.choice(["slow", "fast"])),
            int(rng.integers(1, 4)) if act in COUNTED else None, "banana" if kind in FACES else None,
        )  # fmt: skip

    for group, count in SCENES.items():
        for kind in KINDS:
            for act in ACTS[kind]:
                if kind == "rain":
                    continue
                for index in range(2 * count if kind in PEOPLE else count):
                    colour = str(rng.choice(COLOURS[:8])) if group == "hued" else group
                    actors = [one(kind, act, colour, index)]
                    if act == "collide":
                        other = str(rng.choice([c for c in COLOURS if c != colour]))
                        actors.append(one(kind, act, other, int(rng.integers(3))))
                    elif index % 4 == 3 and act in ("bounce", "ring", "strike", "tick", "say"):
                        mate = str(
                            rng.choice(["bell", "drum", "metronome"] if kind in FACES else ["woman", "man", "robot"])
                        )
                        actors.append(
                            one(mate, ACTS[mate][0], str(rng.choice([c for c in COLOURS if c != colour])), index)
                        )
                    light = str(rng.choice(LIGHTS))
                    floor = str(rng.choice(FLOORS[:2] if light == "indoors" else FLOORS))
                    camera = "still" if act == "behind" else str(rng.choice(CAMERAS))
                    yield Scene(tuple(actors), floor, light, camera, SECONDS, int(rng.integers(2**31)))


@lru_cache(maxsize=1)
def _shelves() -> dict[str, _Shelf]:
    shelves = {}
    for name in SCENES:
        looks, main, middle, kinds, places = shelf.read(*(f"{name}_{part}" for part in PARTS))
        looks, main, middle, places = (v.astype(np.float32) for v in (looks, main, middle, places))
        shelves[name] = _Shelf(looks, main, middle, kinds.astype(np.intp), places)
    return shelves


def build() -> dict[str, NDArray[np.generic]]:
    """The arrays of the bank, for `shelf.write`: films its scenes and finds their blobs. Takes about a minute."""
    scenes = list(_scenes())
    sizes = ((128, 128), (128, 128), (128, 128), (96, 160), (160, 96))
    rng = np.random.default_rng(SEED)
    gathered: dict[str, list[tuple[Floats, NDArray[np.intp], Floats]]] = {name: [] for name in SCENES}
    for s, size in enumerate(sizes):
        part = scenes[s :: len(sizes)]
        for i in range(0, len(part), 24):
            batch = [perform(scene, size, RATE) for scene in part[i : i + 24]]
            frames, sights = render(batch, size, RATE)
            for play, film, seen in zip(batch, frames.numpy(), sights, strict=True):
                pan, zoom = camera(play, np.asarray((np.arange(len(film)) + 0.5) / RATE, np.float64))
                view = View(pan.astype(np.float32), zoom.astype(np.float32), size)
                if rng.random() < BLURRED:
                    sigma = rng.uniform(*BLUR)
                    film = ndimage.gaussian_filter(film, (0, sigma, sigma, 0))
                blobs = find_blobs(film, whole(foreground(film, view)))
                actors = play.scene.actors
                kinds, places = _label(blobs, [a.kind for a in actors], [a.colour for a in actors], seen)
                kept = (kinds != NONE) | (rng.random(len(kinds)) < NONE_SHARE)
                for name in SCENES:
                    own = kept & np.array([_group(int(c)) == name for c in blobs.colour], bool)
                    gathered[name].append((blobs.looks[own], kinds[own], places[own]))
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, parts in gathered.items():
        looks = np.concatenate([p[0] for p in parts])
        middle = looks.mean(0)
        _, axes = np.linalg.eigh((looks - middle).T @ (looks - middle))
        main = axes[:, ::-1][:, :AXES].T
        values = (
            (looks - middle) @ main.T,
            main,
            middle,
            np.concatenate([p[1] for p in parts]),
            np.concatenate([p[2] for p in parts]),
        )
        for key, value, kind in zip(
            PARTS, values, (np.float16, np.float16, np.float32, np.int8, np.float16), strict=True
        ):
            arrays[f"{name}_{key}"] = np.ascontiguousarray(value, kind)
    return arrays


def _label(
    blobs: Blobs, kinds: list[str], colours: list[str | None], sights: list[Sight]
) -> tuple[NDArray[np.intp], Floats]:
    """Kind of each blob by the truth: the largest blob of an actor's colour in its box is the actor."""
    label = np.full(len(blobs), NONE, np.intp)
    place = np.full((len(blobs), 3), np.nan, np.float32)
    side = sides(blobs.box)
    middle = np.stack([blobs.box[:, 0] + blobs.box[:, 2], blobs.box[:, 1] + blobs.box[:, 3]], 1) / 2
    for kind, colour, sight in zip(kinds, colours, sights, strict=True):
        for t in range(len(sight.radius)):
            left, top, right, bottom = sight.box[t]
            own = (blobs.frame == t) & (blobs.colour == COLOURS.index(colour or "white"))
            own &= (
                (blobs.centre[:, 0] > left)
                & (blobs.centre[:, 0] < right)
                & (blobs.centre[:, 1] > top)
                & (blobs.centre[:, 1] < bottom)
            )
            (which,) = np.nonzero(own)
            if len(which) == 0:
                continue
            best = which[blobs.area[which].argmax()]
            label[best] = KINDS.index(kind)
            if sight.visible[t] > 0.93 or kind in FACES:
                place[best, :2] = (sight.centre[t] - middle[best]) / side[best]
                place[best, 2] = sight.radius[t] / side[best]
    return label, place


def recognise(blobs: Blobs) -> Guess:
    """Kind, centre and radius of the actor that each blob belongs to."""
    n = len(blobs)
    kind, sure, far = np.full(n, NONE, np.intp), np.zeros(n, np.float32), np.full(n, np.inf, np.float32)
    place = np.full((n, 3), np.nan, np.float32)
    groups = np.array([_group(int(c)) for c in blobs.colour]) if n else np.zeros(0, str)
    for name, bank in _shelves().items():
        (own,) = np.nonzero(groups == name)
        if len(own) == 0:
            continue
        looks = (blobs.looks[own] - bank.middle_L) @ bank.axes_DL.T
        norms = (bank.looks_MD**2).sum(1)
        distance = norms[None] + (looks**2).sum(1)[:, None] - 2 * looks @ bank.looks_MD.T
        near = np.argpartition(distance, NEAREST, 1)[:, :NEAREST]
        near_distance = np.maximum(np.take_along_axis(distance, near, 1), 0.0)
        weight = 1 / (near_distance + 2.0)
        votes = np.stack([(weight * (bank.kind_M[near] == k)).sum(1) for k in range(-1, len(KINDS))], 1)
        best = votes.argmax(1) - 1
        kind[own], sure[own], far[own] = best, votes.max(1) / votes.sum(1), np.sqrt(near_distance.min(1))
        spots = bank.place_M3[near]
        ok = weight * (bank.kind_M[near] == best[:, None]) * np.isfinite(spots[..., 2])
        with np.errstate(invalid="ignore", divide="ignore"):
            place[own] = (ok[..., None] * np.nan_to_num(spots)).sum(1) / ok.sum(1)[:, None]
    side = sides(blobs.box)
    middle = np.stack([blobs.box[:, 0] + blobs.box[:, 2], blobs.box[:, 1] + blobs.box[:, 3]], 1) / 2
    return Guess(kind, sure, far, middle + place[:, :2] * side[:, None], place[:, 2] * side)
