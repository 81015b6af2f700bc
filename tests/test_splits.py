"""What is drawn, how often, and what is kept from training."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phonofilm.playhouse.casting import IN_PLACE, KIND_SHARES, draw_scene
from phonofilm.playhouse.scene import (
    ACTS,
    CAMERAS,
    COLOURS,
    COUNTED,
    DIRECTIONS,
    FACES,
    FLOORS,
    KINDS,
    LIGHTS,
    MATERIALS,
    MOVING,
    SIZES,
    SPEEDS,
    Scene,
)
from phonofilm.playhouse.speech import WORDS
from phonofilm.playhouse.splits import (
    HELD_OUT,
    SPLITS,
    applicable_pairs,
    features,
    held_out_pairs,
    is_held_out,
    wording_of,
)


@cache
def scenes(split: str, count: int) -> tuple[Scene, ...]:
    return tuple(draw_scene(seed, split) for seed in range(count))


@given(st.integers(0, 2**40), st.sampled_from(SPLITS))
@settings(max_examples=100, deadline=None)
def test_a_scene_is_its_seed(seed: int, split: str) -> None:
    scene = draw_scene(seed, split)
    draw_scene(seed + 1, split)
    assert draw_scene(seed, split) == scene
    assert all(draw_scene(seed, other) != scene for other in SPLITS if other != split)


@given(st.integers(0, 2**40), st.sampled_from(SPLITS))
@settings(max_examples=400, deadline=None)
def test_scenes_can_be_played(seed: int, split: str) -> None:
    scene = draw_scene(seed, split)
    kinds = [actor.kind for actor in scene.actors]
    acts = [actor.act for actor in scene.actors]
    assert scene.floor in FLOORS and scene.light in LIGHTS and scene.camera in CAMERAS and 2 <= scene.seconds <= 4
    assert not (scene.light == "indoors" and (scene.floor == "grass" or "rain" in kinds))
    assert scene.camera == "still" or "behind" not in acts
    for actor in scene.actors:
        assert actor.act in ACTS[actor.kind]
        assert (actor.colour in COLOURS) == (actor.kind != "rain")
        assert (actor.material in MATERIALS) == (actor.kind == "ball")
        assert (actor.direction in DIRECTIONS) == (actor.act in MOVING)
        assert (actor.speed in SPEEDS) == (actor.act in (*MOVING, "tick", "rain"))
        assert (actor.count in (1, 2, 3)) == (actor.act in COUNTED)
        assert (actor.word in WORDS) == (actor.kind in FACES)
    if len(scene.actors) == 2:
        first, second = scene.actors
        assert first.colour != second.colour
        if "collide" in acts:
            assert acts == ["collide", "collide"] and (first.direction, second.direction) == ("left", "right")
        else:
            assert kinds[0] != kinds[1] and all(IN_PLACE.get(k) == a for k, a in zip(kinds, acts, strict=True))
            assert len(set(kinds) & set(FACES)) <= 1 or not set(kinds) <= set(FACES)
    else:
        assert len(scene.actors) == 1 and "collide" not in acts


@pytest.mark.parametrize("split", ["train", "train_like", "held_out_wordings"])
def test_training_never_sees_a_held_out_pair(split: str) -> None:
    shown = [
        (scene, pairs)
        for scene in scenes(split, 20_000 if split == "train" else 3_000)
        if (pairs := is_held_out(scene))
    ]
    assert not shown


def test_held_out_combinations_show_every_pair_in_the_first_actor() -> None:
    drawn = scenes("held_out_combinations", 2_500)
    assert all(held_out_pairs(scene.actors[0], scene) for scene in drawn)
    assert not any(held_out_pairs(actor, scene) for scene in drawn for actor in scene.actors[1:])
    seen = Counter(pair for scene in drawn for pair in is_held_out(scene))
    assert set(seen) == set(HELD_OUT) and min(seen.values()) >= 5
    assert {scene.actors[0].kind for scene in drawn} == set(KINDS)


def test_every_feature_that_is_held_out_in_a_pair_is_learnt_in_others() -> None:
    seen = Counter(feature for s in scenes("train", 20_000) for actor in s.actors for feature in features(actor, s))
    assert min(seen[feature] for pair in HELD_OUT for feature in pair) >= 50


def test_held_out_pairs_are_a_tenth_of_the_combinations() -> None:
    assert len(set(HELD_OUT)) == len(HELD_OUT)
    kind_colour = [(a[1], b[1]) for a, b in HELD_OUT if (a[0], b[0]) == ("kind", "colour")]
    assert {kind for kind, _ in kind_colour} == set(KINDS) - {"rain"}
    assert {colour for _, colour in kind_colour} == set(COLOURS)
    assert len(kind_colour) == len(COLOURS)  # so every kind lacks one colour, and every colour one kind
    families = Counter((a[0], b[0]) for a, b in HELD_OUT)
    assert families["material", "colour"] == families["colour", "size"] == 0.1 * 30
    assert 0.05 <= families["kind", "word"] / (len(FACES) * len(WORDS)) <= 0.15
    assert all(applicable_pairs(kind, act) for kind in KINDS for act in ACTS[kind])


def test_the_distribution_reaches_everything() -> None:
    drawn = scenes("train", 20_000)
    first = Counter(scene.actors[0].kind for scene in drawn)
    assert first.most_common(1)[0][0] == "ball"
    assert all(first[kind] / len(drawn) > 0.6 * share for kind, share in KIND_SHARES.items())
    beside = sum(len(s.actors) == 2 and s.actors[0].act != "collide" for s in drawn) / len(drawn)
    assert 0.15 < beside < 0.2
    cameras = Counter(scene.camera for scene in drawn)
    assert cameras["still"] / len(drawn) == pytest.approx(0.62, abs=0.04)
    assert Counter(scene.seconds for scene in drawn).most_common(1)[0][0] == 3.0
    actors = [actor for scene in drawn for actor in scene.actors]
    for name, values in (("colour", COLOURS), ("size", SIZES), ("material", MATERIALS), ("count", (1, 2, 3))):
        seen = Counter(getattr(a, name) for a in actors if getattr(a, name) is not None and a.kind != "rain")
        assert set(seen) == set(values) and min(seen.values()) > 0.6 * max(seen.values()), name
    assert {(a.kind, a.act) for a in actors} == {(kind, act) for kind in KINDS for act in ACTS[kind]}
    assert {(a.kind, a.word) for a in actors if a.word} == {
        (kind, word) for kind in FACES for word in WORDS if (("kind", kind), ("word", word)) not in HELD_OUT
    }
    assert {(s.floor, s.light) for s in drawn} == {(f, li) for f in FLOORS for li in LIGHTS} - {("grass", "indoors")}


def test_kinds_and_seconds_can_be_given() -> None:
    for kind in KINDS:
        for split in SPLITS:
            drawn = [draw_scene(seed, split, kinds=[kind], seconds=2.25) for seed in range(10)]
            assert all(a.kind == kind for s in drawn for a in s.actors) and {s.seconds for s in drawn} == {2.25}
    pairs = [s for seed in range(100) if len((s := draw_scene(seed, kinds=["woman", "bell"])).actors) == 2]
    assert pairs and all({a.kind for a in s.actors} == {"woman", "bell"} for s in pairs)
    said = {
        a.word
        for seed in range(60)
        for a in draw_scene(seed, "held_out_combinations", kinds=["man"], words=["no", "hello"]).actors
    }
    assert said == {"no", "hello"}


def test_wrong_wishes_are_named() -> None:
    with pytest.raises(ValueError, match="unknown split 'test'"):
        draw_scene(0, "test")
    with pytest.raises(ValueError, match="unknown split"):
        wording_of("test")
    with pytest.raises(ValueError, match="seed -1"):
        draw_scene(-1)
    with pytest.raises(ValueError, match="dog"):
        draw_scene(0, kinds=["dog"])
    with pytest.raises(ValueError, match="kinds"):
        draw_scene(0, kinds=[])
    with pytest.raises(ValueError, match="seconds 9"):
        draw_scene(0, seconds=9)
