"""Draws scenes: which actors, which attributes, how often. One seed, one split: one scene, whatever came before."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Final, TypeVar

from numpy.random import PCG64, Generator

from phonofilm.playhouse.scene import (
    CAMERAS,
    COLOURS,
    COUNTED,
    DIRECTIONS,
    FACES,
    FLOORS,
    KINDS,
    LIGHTS,
    MATERIALS,
    MAX_COUNT,
    MOVING,
    SIZES,
    SPEEDS,
    Actor,
    Scene,
)
from phonofilm.playhouse.splits import HELD_OUT, Pair, applicable_pairs, check_split, held_out_pairs

T = TypeVar("T")

KIND_SHARES: Final = {
    "ball": 0.28, "box": 0.09, "bell": 0.08, "drum": 0.08, "metronome": 0.06, "car": 0.08, "bird": 0.07, "rain": 0.03,
    "woman": 0.08, "man": 0.08, "robot": 0.07,
}  # fmt: skip
"""How often each kind is the (first) actor."""
ACT_SHARES: Final = {
    "ball": {"bounce": 0.40, "roll": 0.21, "behind": 0.21, "collide": 0.18},
    "box": {"slide": 0.5, "fall": 0.5},
    "bell": {"ring": 1.0},
    "drum": {"strike": 1.0},
    "metronome": {"tick": 1.0},
    "car": {"drive": 1.0},
    "bird": {"fly": 1.0},
    "rain": {"rain": 1.0},
    "woman": {"say": 1.0},
    "man": {"say": 1.0},
    "robot": {"say": 1.0},
}
IN_PLACE: Final = {"ball": "bounce", "bell": "ring", "drum": "strike", "metronome": "tick"} | dict.fromkeys(
    FACES, "say"
)
"""Who can stand beside another, and what he does there."""
PAIR_SHARE: Final = 0.17  # of the scenes: two actors side by side (collisions come on top)
CAMERA_SHARES: Final = {"still": 0.6, "pan": 0.2, "zoom": 0.2}
SECONDS_SHARES: Final = {2.0: 0.15, 2.5: 0.15, 3.0: 0.4, 3.5: 0.15, 4.0: 0.15}
SHORTEST, LONGEST = 2.0, 4.0  # seconds; three bounces or strikes need the shortest

Plan = tuple[tuple[str, str], ...]  # (kind, act) of each actor


def draw_scene(
    seed: int,
    split: str = "train",
    *,
    kinds: Sequence[str] | None = None,
    seconds: float | None = None,
    words: Sequence[str] | None = None,
) -> Scene:
    """The scene that `seed` (>= 0) draws in `split` (one of `splits.SPLITS`); each split has its own scenes.

    kinds: the actors to draw from, in the usual proportions; all by default. seconds: 2 to 4, drawn by default.
    words: what faces may say, `speech.WORDS` by default.

    Scenes of "held_out_combinations" have a first actor that shows a pair of `splits.HELD_OUT`, each pair that his
    kind and act can show being equally likely; all other actors, everywhere, show none.
    Raises ValueError for an unknown split or kind, a negative seed, and lengths out of range.
    """
    check_split(split)
    if seed < 0:
        raise ValueError(f"seed {seed}: must not be negative")
    allowed = tuple(KINDS if kinds is None else dict.fromkeys(kinds))
    if not allowed or not set(allowed) <= set(KINDS):
        raise ValueError(f"kinds {list(allowed)}: must be some of {', '.join(KINDS)}")
    if seconds is not None and not SHORTEST <= seconds <= LONGEST:
        raise ValueError(f"seconds {seconds}: must be from {SHORTEST:g} to {LONGEST:g}")
    if words is None:
        from phonofilm.playhouse.speech import WORDS

        words = WORDS
    rng = Generator(PCG64([seed, zlib.crc32(split.encode())]))
    plan = _plan(rng, allowed)
    wanted = None
    if split == "held_out_combinations":
        unsaid = {("word", w) for pair in HELD_OUT for name, w in pair if name == "word" and w not in words}
        wanted = _any(rng, [pair for pair in applicable_pairs(*plan[0]) if unsaid.isdisjoint(pair)])
    while True:
        scene = _fill(rng, plan, words)
        if _fits(scene, wanted):
            length = float(_weighted(rng, SECONDS_SHARES)) if seconds is None else float(seconds)
            return replace(scene, seconds=length, seed=int(rng.integers(2**31)))


def _fits(scene: Scene, wanted: Pair | None) -> bool:
    first, *others = (held_out_pairs(actor, scene) for actor in scene.actors)
    return not any(others) and (wanted in first if wanted is not None else not first)


def _plan(rng: Generator, kinds: Sequence[str]) -> Plan:
    """Who plays, and what."""
    in_place = {kind: KIND_SHARES[kind] for kind in kinds if kind in IN_PLACE}
    if rng.random() < PAIR_SHARE and len(in_place) > 1 and not set(in_place) <= set(FACES):
        first = _weighted(rng, in_place)
        others = {k: p for k, p in in_place.items() if k != first and not (first in FACES and k in FACES)}
        second = _weighted(rng, others)
        return (first, IN_PLACE[first]), (second, IN_PLACE[second])
    kind = _weighted(rng, {kind: KIND_SHARES[kind] for kind in kinds})
    act = _weighted(rng, ACT_SHARES[kind])
    return ((kind, act), (kind, act)) if act == "collide" else ((kind, act),)


def _fill(rng: Generator, plan: Plan, words: Sequence[str]) -> Scene:
    """Draw everything that the plan leaves open, evenly."""
    kinds, acts = zip(*plan, strict=True)
    colours = rng.permutation(len(COLOURS))  # no two actors share one
    actors = [_actor(rng, kind, act, COLOURS[c], words) for kind, act, c in zip(kinds, acts, colours, strict=False)]
    if "collide" in acts:
        speed = actors[0].speed
        actors = [replace(a, direction=d, speed=speed) for a, d in zip(actors, DIRECTIONS, strict=True)]
    light = _any(rng, [light for light in LIGHTS if not ("rain" in kinds and light == "indoors")])
    floor = _any(rng, [floor for floor in FLOORS if not (light == "indoors" and floor == "grass")])
    camera = "still" if "behind" in acts else _weighted(rng, CAMERA_SHARES)
    assert camera in CAMERAS
    return Scene(actors=tuple(actors), floor=floor, light=light, camera=camera)


def _actor(rng: Generator, kind: str, act: str, colour: str, words: Sequence[str]) -> Actor:
    rains = kind == "rain"
    return Actor(
        kind=kind,
        act=act,
        colour=None if rains else colour,
        size="medium" if rains else _any(rng, SIZES),
        material=_any(rng, MATERIALS) if kind == "ball" else None,
        direction=_any(rng, DIRECTIONS) if act in MOVING else None,
        speed=_any(rng, SPEEDS) if act in MOVING or act in ("tick", "rain") else None,
        count=int(rng.integers(1, MAX_COUNT + 1)) if act in COUNTED else None,
        word=_any(rng, words) if kind in FACES else None,
    )


def _any(rng: Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _weighted(rng: Generator, shares: dict[T, float]) -> T:
    """A key, in proportion to its value."""
    edges = list(accumulate(shares.values()))
    return list(shares)[bisect_right(edges, rng.random() * edges[-1])]
