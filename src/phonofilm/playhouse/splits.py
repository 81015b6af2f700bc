"""What training never sees together, and where each evaluation split looks.

A scene has features such as ("colour", "red") or ("count", "2"), actor by actor. `HELD_OUT` lists pairs of them that
no single actor has in a training scene, although every feature alone is met there in many other company: about one
combination in ten of each family. A model that has learnt the parts can put the pairs together; one that has
memorised wholes cannot.
"""

from __future__ import annotations

from typing import Final

from phonofilm.playhouse.scene import FACES, Actor, Scene

Feature = tuple[str, str]
Pair = tuple[Feature, Feature]

SPLITS: Final = ("train", "train_like", "held_out_combinations", "held_out_wordings")
"""train: what training draws. train_like: the same law, other scenes. held_out_combinations: the first actor shows a
held-out pair. held_out_wordings: scenes like those of training, told in sentences that training never uses."""


def _pairs(left: str, right: str, *values: tuple[str, str]) -> tuple[Pair, ...]:
    return tuple(((left, a), (right, b)) for a, b in values)


HELD_OUT: Final[tuple[Pair, ...]] = (
    *_pairs(
        "kind", "colour",
        ("ball", "cyan"), ("box", "red"), ("bell", "blue"), ("drum", "green"), ("metronome", "pink"),
        ("car", "purple"), ("bird", "yellow"), ("woman", "black"), ("man", "white"), ("robot", "orange"),
    ),
    *_pairs("material", "colour", ("rubber", "green"), ("wood", "pink"), ("metal", "yellow")),
    *_pairs("colour", "size", ("purple", "large"), ("red", "small"), ("white", "medium")),
    *_pairs("act", "count", ("strike", "2"), ("ring", "3")),
    *_pairs("act", "motion", ("drive", "fast from the right"), ("roll", "slow from the left")),
    *_pairs(
        "kind", "word",
        ("woman", "music"), ("woman", "open"), ("woman", "cinema"), ("man", "hello"), ("man", "banana"),
        ("robot", "mama"), ("robot", "yes"), ("robot", "no"),
    ),
    *_pairs("rain", "light", ("heavy", "sunset")),
)  # fmt: skip


def features(actor: Actor, scene: Scene) -> frozenset[Feature]:
    """The features of one actor that `HELD_OUT` speaks of.

    `motion` joins speed and direction; a collision has none, since its two balls always come from either side.
    """
    found: dict[str, str | None] = {
        "kind": actor.kind,
        "act": actor.act,
        "colour": actor.colour,
        "size": actor.size if actor.kind != "rain" else None,
        "material": actor.material,
        "count": None if actor.count is None else str(actor.count),
        "word": actor.word,
        "light": scene.light,
    }
    if actor.direction is not None and actor.act != "collide":
        found["motion"] = f"{actor.speed} from the {actor.direction}"
    if actor.kind == "rain":
        found["rain"] = "heavy" if actor.speed == "fast" else "light"
    return frozenset((key, value) for key, value in found.items() if value is not None)


def held_out_pairs(actor: Actor, scene: Scene) -> list[Pair]:
    """The held-out pairs that this actor of the scene shows, in the order of `HELD_OUT`."""
    present = features(actor, scene)
    return [pair for pair in HELD_OUT if pair[0] in present and pair[1] in present]


def is_held_out(scene: Scene) -> list[Pair]:
    """The held-out pairs that any actor of the scene shows; an empty list (false) where training may see the scene."""
    return [pair for actor in scene.actors for pair in held_out_pairs(actor, scene)]


def applicable_pairs(kind: str, act: str) -> list[Pair]:
    """The held-out pairs that an actor of this kind and act can show."""
    return [pair for pair in HELD_OUT if all(_possible(feature, kind, act) for feature in pair)]


def _possible(feature: Feature, kind: str, act: str) -> bool:
    name, value = feature
    if name == "kind":
        return value == kind
    if name == "act":
        return value == act
    if name == "material":
        return kind == "ball"
    if name == "word":
        return kind in FACES
    if name in ("rain", "light"):
        return kind == "rain"
    if name in ("colour", "size"):
        return kind != "rain"
    return True  # count and motion stand beside the act that has them


def wording_of(split: str) -> str:
    """Which wording (`captions.describe`) tells the scenes of a split: "train" or "held_out"."""
    return "held_out" if check_split(split) == "held_out_wordings" else "train"


def check_split(split: str) -> str:
    """`split` itself; ValueError where there is no such split."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; allowed: {', '.join(SPLITS)}")
    return split
