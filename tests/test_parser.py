"""The parser reads clips of the playhouse as they are, and sees what goes wrong when they are tampered with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from scipy import ndimage

from phonofilm.evaluate import motion, parser
from phonofilm.evaluate.background import find_backdrop, find_camera
from phonofilm.evaluate.parser import Parsed, parse
from phonofilm.evaluate.score import reappears
from phonofilm.playhouse.casting import draw_scene
from phonofilm.playhouse.playhouse import film
from phonofilm.playhouse.render import render
from phonofilm.playhouse.scene import Actor, Performance, Scene
from phonofilm.playhouse.stage import camera, perform

FPS = 16.0
SCENES = {
    "bounce": Scene((Actor("ball", "bounce", "red", "medium", "rubber", count=3),), "wooden", "day", seed=3),
    "behind": Scene((Actor("ball", "behind", "orange", "small", "wood", "right", "fast"),), "grass", "sunset", seed=4),
    "collide": Scene(
        (Actor("ball", "collide", "white", "medium", "rubber", "left", "slow"),
         Actor("ball", "collide", "black", "large", "metal", "right", "slow")), "stone", "night", seed=5),
    "slide": Scene(
        (Actor("box", "slide", "green", "large", None, "left", "fast"),), "wooden", "indoors", "pan", seed=6),
    "fall": Scene((Actor("box", "fall", "purple", "small"),), "grass", "day", "zoom", seed=7),
    "ring": Scene((Actor("bell", "ring", "yellow", "large", count=2),), "stone", "sunset", seed=8),
    "drum": Scene(
        (Actor("drum", "strike", "blue", "medium", count=3),
         Actor("metronome", "tick", "pink", "large", speed="fast")),
        "wooden", "indoors", seed=9),
    "drive": Scene((Actor("car", "drive", "black", "medium", None, "right", "slow"),), "stone", "night", seed=10),
    "fly": Scene((Actor("bird", "fly", "cyan", "medium", None, "left", "slow", 2),), "grass", "day", "pan", seed=11),
    "rain": Scene((Actor("rain", "rain", None, "medium", speed="fast"),), "grass", "day", seed=12),
    "woman": Scene((Actor("woman", "say", "green", "medium", word="hello"),), "wooden", "indoors", seed=13),
    "man": Scene((Actor("man", "say", "white", "large", word="window"),), "grass", "sunset", "zoom", seed=14),
    "robot": Scene((Actor("robot", "say", "red", "small", word="music"),), "stone", "day", seed=15),
}  # fmt: skip


@lru_cache(maxsize=64)
def _shot(name: str, size: tuple[int, int] = (128, 128)) -> tuple[Performance, np.ndarray]:
    play = perform(SCENES[name], size, FPS)
    frames = render([play], size, FPS, truth=False)[0][0].numpy()
    frames.flags.writeable = False
    return play, frames


def _expected_motion(actor: Actor) -> str:
    return {"bounce": "bounces", "fall": "falls"}.get(actor.act, actor.direction or "static")


def _agrees(parsed: Parsed, scene: Scene) -> None:
    assert [a.kind for a in parsed.actors] == [a.kind for a in scene.actors]
    assert [a.colour for a in parsed.actors] == [a.colour for a in scene.actors]
    assert [a.size for a in parsed.actors] == [a.size for a in scene.actors]
    assert [a.motion for a in parsed.actors] == [_expected_motion(a) for a in scene.actors]
    assert [a.speed for a in parsed.actors] == [a.speed for a in scene.actors]
    assert (parsed.light, parsed.floor) == (scene.light, scene.floor)
    assert parsed.lasting


@pytest.mark.parametrize("name", SCENES)
def test_reads_what_is_played(name):
    play, frames = _shot(name)
    parsed = parse(frames, FPS)
    _agrees(parsed, play.scene)
    assert (parsed.wall is not None) == (name == "behind")
    for index, seen in enumerate(parsed.actors):
        count = play.scene.actors[index].count
        if count is not None and seen.kind != "bird":
            assert len(seen.strikes) == count
        if seen.kind != "rain":
            off = np.abs(seen.x - play.tracks[index].x)[seen.visible]
            assert np.median(off) < 0.25 * play.tracks[index].radius[0]


@pytest.mark.parametrize("seed", [102887, 103470, 107881, 100563])
def test_a_ball_beside_the_wall_is_told_from_its_outline(seed: int) -> None:
    """White and black ones, as bright as its joints or as dark as its lines, which grew together with them: a bell."""
    scene = draw_scene(seed, "train_like", seconds=3.0)
    parsed = parse(film([scene]).frames[0].numpy(), FPS)
    _agrees(parsed, scene)
    assert reappears(parsed, parsed.actors[0], scene.actors[0])


def test_it_must_be_the_same_ball_that_comes_out_and_it_must_come_out() -> None:
    scene = draw_scene(100014, "train_like", seconds=3.0)
    frames = film([scene]).frames[0].numpy()
    larger, alone = frames.copy(), frames.copy()
    other = scene.actors[0].size == "large"
    twin = replace(scene, actors=(replace(scene.actors[0], size="small" if other else "large"),))
    behind = parse(frames, FPS).actors[0].visible.argmin()  # where it is first hidden
    larger[behind:] = film([twin]).frames[0].numpy()[behind:]
    alone[behind:] = frames[behind]
    for shown, right in ((frames, True), (larger, False), (alone, False)):
        parsed = parse(shown, FPS)
        assert reappears(parsed, parsed.actors[0] if parsed.actors else None, scene.actors[0]) is right


@pytest.mark.parametrize(("name", "size"), [("bounce", (96, 160)), ("drive", (160, 96)), ("woman", (96, 160))])
def test_reads_other_formats(name, size):
    play, frames = _shot(name, size)
    _agrees(parse(frames, FPS), play.scene)


@pytest.mark.parametrize("name", ["slide", "fall", "robot", "fly"])
def test_camera_and_backdrop(name):
    play, frames = _shot(name)
    view = find_camera(frames)
    pan, zoom = camera(play, (np.arange(len(frames)) + 0.5) / FPS)
    assert np.abs(view.pan - pan).max() < 0.04 and np.abs(view.zoom - zoom).max() < 0.04
    assert find_backdrop(frames, view) == (play.scene.light, play.scene.floor)


@pytest.mark.parametrize("name", ["bounce", "collide", "fall", "ring", "drum"])
def test_strikes_are_timed_within_frames(name):
    """Instants are found to a fraction of the 62 ms between frames."""
    play, frames = _shot(name)
    for index, seen in enumerate(parse(frames, FPS).actors):
        events = [e.time for e in play.events if e.actor == index or e.kind == "knock"]
        off = [min(abs(t - e) for e in events) for t in seen.strikes]
        assert len(off) and max(off) < 0.02


@pytest.mark.parametrize("name", ["bounce", "collide", "drum", "fly", "man", "robot"])
def test_survives_blur_and_noise(name):
    play, frames = _shot(name)
    rng = np.random.default_rng(0)
    soft = ndimage.gaussian_filter(frames.astype(np.float32), (0, 0.7, 0.7, 0))
    soft += rng.normal(0, 1.5, soft.shape) + rng.normal(0, 1.5, 3)
    _agrees(parse(soft.clip(0, 255).astype(np.uint8), FPS), play.scene)


def _without(first: int, last: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def change(frames: np.ndarray, empty: np.ndarray) -> np.ndarray:
        out = frames.copy()
        out[first:last] = empty[first:last]
        return out

    return change


def _bare(name: str) -> np.ndarray:
    """The same backdrop without actors."""
    play, _ = _shot(name)
    hidden = [type(t)(t.x + 50, t.y, t.radius, t.angle, t.pose, t.round) for t in play.tracks]
    return render([Performance(play.scene, tuple(hidden), (), (), play.extras)], (128, 128), FPS, truth=False)[0][
        0
    ].numpy()


@pytest.mark.parametrize("name", ["bounce", "robot"])
@pytest.mark.parametrize(("first", "last"), [(20, 24), (40, 48)])
def test_sees_what_vanishes(name, first, last):
    _, frames = _shot(name)
    parsed = parse(_without(first, last)(frames, _bare(name)), FPS)
    assert parsed.vanishes and not parsed.lasting


def test_sees_a_leap():
    _, frames = _shot("bounce")
    moved = frames.copy()
    moved[30:] = np.roll(frames[30:], 45, axis=2)
    assert parse(moved, FPS).teleports


def test_sees_a_change_of_colour():
    _, frames = _shot("bounce")
    changed = frames.copy()
    changed[24:] = frames[24:][..., [2, 1, 0]]  # the red ball turns blue, but so does all else
    red = (frames[24:, ..., 0].astype(int) - frames[24:, ..., 2]) > 60
    assert parse(np.where(red[..., None].repeat(3, -1), changed[24:], frames[24:]).astype(np.uint8), FPS).actors
    swapped = frames.copy()
    swapped[24:] = np.where(red[..., None], changed[24:], frames[24:])
    assert parse(swapped, FPS).swaps


def test_sees_a_stranger():
    _, frames = _shot("slide")
    _, other = _shot("bounce")
    joined = frames.copy()
    joined[20:28, 20:60, 80:120] = other[46, 60:100, 40:80]  # a red ball hangs in the air for half a second
    assert parse(joined, FPS).appears


def test_a_mouth_opens_when_it_speaks():
    for name in ("woman", "robot"):
        play, frames = _shot(name)
        opening = parse(frames, FPS).actors[0].opening
        assert np.corrcoef(opening, play.tracks[0].pose)[0, 1] > 0.9


def test_contacts_of_a_known_fall():
    """Exact parabolas, sampled at 16 fps: the contacts are found to a few milliseconds."""
    for shift in np.linspace(0, 0.06, 5):
        t = (np.arange(48) + 0.5) / FPS
        hits = [0.6 + shift, 1.24 + shift]
        y = np.where(t < 0.2 + shift, 1.0, 1 - ((t - 0.2 - shift) / 0.4) ** 2)
        u = (t - hits[0]) / 0.32
        y = np.where(t >= hits[0], 0.64 * np.maximum(0, 1 - (u - 1) ** 2), y)
        y = np.where(t >= hits[1], 0.0, y)
        assert motion.contacts(y, FPS) == pytest.approx(hits, abs=0.005)


def test_too_few_frames():
    with pytest.raises(ValueError, match="7 frames"):
        parse(np.zeros((7, 64, 64, 3), np.uint8), FPS)


def test_nothing_is_seen_on_an_empty_stage():
    assert parse(_bare("robot"), FPS).actors == ()


def test_what_is_no_film_of_the_playhouse_is_parsed_without_an_error() -> None:
    rng = np.random.default_rng(5)
    smear = ndimage.gaussian_filter(rng.uniform(0, 255, (24, 128, 128, 3)), (3, 9, 9, 0))
    smear = (smear - smear.min()) / np.ptp(smear) * 255
    patches = np.full((24, 96, 160, 3), 180, np.uint8)
    for t in range(24):
        y, x = rng.integers(0, 80, 2)
        patches[t, y : y + 14, x : x + 20] = rng.choice([(216, 40, 44), (40, 85, 220), (30, 30, 30)])
    for frames in (smear.astype(np.uint8), patches, rng.integers(0, 255, (24, 128, 128, 3), np.uint8)):
        parsed = parse(frames, 16.0)
        assert all(np.isfinite(actor.x).any() for actor in parsed.actors)


@pytest.mark.parametrize("seen", [0, 2])
def test_who_is_hardly_to_be_seen_has_no_speed(seen: int) -> None:
    x = np.full(48, np.nan)
    x[:seen] = 0.5
    assert parser._cruise(x, 16.0) == 0.0
