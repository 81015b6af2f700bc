"""The storyboard: exact truth in numbers, what is drawn of it, and that it goes ahead of picture and sound."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from phonofilm.clip import FORMATS
from phonofilm.diffusion.ahead import draw_board, lip_sync
from phonofilm.diffusion.euler import Euler
from phonofilm.diffusion.noise import strip_noise
from phonofilm.diffusion.schedule import uniform_times
from phonofilm.latents import BOARD_CHANNELS, FPS, Geometry, Latents, with_board, without_board
from phonofilm.playhouse.casting import draw_scene
from phonofilm.playhouse.playhouse import film
from phonofilm.playhouse.scene import COLOURS, KINDS, Actor, Scene
from phonofilm.playhouse.stage import perform
from phonofilm.playhouse.storyboard import storyboard
from phonofilm.storyboard import (
    METRONOME,
    OF_ACTOR,
    OF_SCENE,
    ON,
    SLOTS,
    SPLAT,
    WORTH,
    at_instants,
    channels,
    decided,
    from_tokens,
    hold,
    in_time,
    outline,
    poses,
    rains,
    speaks,
    splat,
    steady,
    to_tokens,
    with_lips,
    worth,
)
from phonofilm.train.tasks import Question, error

BALL = Actor("ball", "behind", "red", direction="left", speed="fast", material="rubber")
DRUM = Actor("drum", "strike", "blue", count=3)
CAR = Actor("car", "drive", "green", direction="right", speed="slow")
BIRD = Actor("bird", "fly", "yellow", direction="left", speed="fast", count=2)


def frames_of(board: Tensor, name: str, slot: int = 0) -> np.ndarray[Any, Any]:
    return board[:, channels(name, slot)].flatten().numpy()


def test_every_channel_has_one_meaning() -> None:
    spans = [channels(name, slot) for slot in range(SLOTS) for name in OF_ACTOR]
    spans += [channels(name) for name in OF_SCENE]
    taken = [c for span in spans for c in range(span.start, span.stop)]
    assert taken == list(range(BOARD_CHANNELS))
    with pytest.raises(KeyError):
        channels("smell", 0)


@pytest.mark.parametrize("size", sorted(FORMATS))
@pytest.mark.parametrize("camera", ["still", "pan", "zoom"])
def test_actors_stand_where_they_are_filmed(size: str, camera: str) -> None:
    scenes = [Scene((actor,), camera=camera, seconds=2.0, seed=7) for actor in (CAR, BIRD, DRUM)]
    take = film(scenes, FORMATS[size])
    width, height = FORMATS[size]
    for play, (sight,) in zip(take.performances, take.sights, strict=True):
        board = from_tokens(to_tokens(storyboard(play, FORMATS[size])))
        place = np.stack([frames_of(board, "x") * 32 + width / 2, frames_of(board, "y") * 32 + height / 2], 1)
        np.testing.assert_allclose(place, sight.centre, atol=0.01)
        np.testing.assert_allclose(board[:, channels("radius", 0)].repeat(1, 4).flatten() * 32, sight.radius, rtol=0.01)
        actor = play.scene.actors[0]
        assert board[:, channels("kind", 0).start + KINDS.index(actor.kind)].eq(ON).all()
        assert board[:, channels("colour", 0).start + COLOURS.index(str(actor.colour))].eq(ON).all()
        assert board[:, channels("kind", 0)].sum() == ON * len(board)
        assert (board[:, channels("x", 1).start : channels("pan").start] == 0).all()  # nobody else


def test_who_is_behind_the_wall_is_not_seen() -> None:
    take = film([Scene((BALL,), seconds=3.0, seed=3)])
    board, visible = storyboard(take.performances[0]), take.sights[0][0].visible
    seen = frames_of(board, "seen")
    assert (seen[visible == 0] < 0.1).all() and (seen[visible > 0.97] > 0.95).all()
    assert (visible == 0).sum() >= 3 and abs(seen - visible).mean() < 0.06
    rows = splat(to_tokens(board)[None], 4, 4)[0, 0, ..., 6 * 4 + 24]  # the wall: in the middle, up from the lower edge
    assert rows[7, 4] > 0.7 and rows[0].max() < 0.1 and rows[:, [0, 7]].max() < 0.1


def test_hits_tell_their_instants_exactly() -> None:
    play = perform(Scene((DRUM, BIRD), seconds=3.0, seed=5))
    board = storyboard(play)
    for slot in range(2):
        times = [e.time for e in play.events if e.actor == slot]
        hits = frames_of(board, "hit", slot)
        assert hits.sum() == pytest.approx(ON * len(times), rel=1e-5)
        for time in times:
            near = slice(max(0, int(time * FPS - 0.5)), int(time * FPS - 0.5) + 2)
            instants = (np.arange(len(hits))[near] + 0.5) / FPS
            assert (hits[near] * instants).sum() / ON == pytest.approx(time, abs=1e-5)


@pytest.mark.parametrize("seconds", [0.0, 0.02, 1 / FPS])
def test_what_falls_is_heard_later_and_nothing_else_changes(seconds: float) -> None:
    scene = Scene((DRUM, Actor("ball", "bounce", "red", material="rubber", count=2)), seconds=3.0, seed=5)
    tokens = to_tokens(storyboard(perform(scene)))[None]
    later = at_instants(tokens, seconds)
    before, after = (frames_of(from_tokens(x)[0], "hit", 1) for x in (tokens, later))
    instants = (np.arange(len(before)) + 0.5) / FPS
    assert after.sum() == pytest.approx(before.sum(), rel=1e-4) and before.sum() > ON
    assert ((after - before) * instants).sum() / before.sum() == pytest.approx(seconds, abs=1e-5)
    differ = (later != tokens).any(1)[0]
    hits = torch.zeros_like(differ)
    hits[channels("hit", 1)] = True
    assert not (differ & ~hits).any() and differ.any() == (seconds > 0)


def test_a_blow_that_comes_later_is_as_sharp_as_before() -> None:
    times = torch.arange(40) * 3.37 / 40 + 0.3  # of a blow, between all frames
    boards = torch.zeros(40, 16, 128)
    for board, time in zip(boards, times.tolist(), strict=True):
        board[:, channels("kind", 0).start] = ON
        place = time * FPS - 0.5
        hits = board[:, channels("hit", 0)].reshape(-1)
        hits[int(place)], hits[int(place) + 1] = ON * (1 - place % 1), ON * (place % 1)
        board[:, channels("hit", 0)] = hits.view(16, 4)
    later = from_tokens(at_instants(to_tokens(boards), 0.02))[..., channels("hit", 0)].flatten(-2)
    assert (later.unfold(-1, 2, 1).sum(-1).amax(-1) > 0.96 * later.sum(-1)).all()
    instants = (torch.arange(64) + 0.5) / FPS
    assert (later @ instants / later.sum(-1)).numpy() == pytest.approx((times + 0.02).numpy(), abs=1e-4)


def test_blows_are_not_moved_back_nor_by_more_than_a_frame() -> None:
    with pytest.raises(ValueError, match=r"0 to 0\.0625 seconds, got -0\.01"):
        at_instants(torch.zeros(1, 4, 128), -0.01)
    with pytest.raises(ValueError, match=r"got 0\.1"):
        at_instants(torch.zeros(1, 4, 128), 0.1)


def test_a_smeared_blow_is_an_instant_again_and_half_a_one_is_whole_or_none() -> None:
    boards = torch.zeros(4, 4, 128)
    hits = boards[..., channels("hit", 1)].reshape(4, 16).clone()
    hits[0, 3:6] = torch.tensor([0.7, 0.69, 0.68])  # one of three frames
    hits[1, 3:5], hits[1, 9] = torch.tensor([0.4, 0.9]), 0.8  # one that is not wholly there, and one that hardly is
    hits[2, 3:5], hits[2, 6:8] = torch.tensor([0.5, 1.5]), torch.tensor([1.5, 0.5])  # two that follow each other
    hits[3] = torch.tensor([0.06, -0.05]).repeat(8)
    boards[..., channels("hit", 1)] = hits.view(4, 4, 4)
    sharp = from_tokens(at_instants(to_tokens(boards)))[..., channels("hit", 1)].reshape(4, 16)
    places = sharp @ torch.arange(16.0) / ON
    torch.testing.assert_close(sharp.sum(-1), ON * torch.tensor([1.0, 1, 2, 0]), rtol=0, atol=1e-4)
    middles = [3 + (0.69 + 2 * 0.68) / 2.07, 3 + 0.9 / 1.3, 3.75 + 6.25]
    assert places[:3].numpy() == pytest.approx(middles, abs=1e-3)
    assert ((sharp > 1e-3).sum(-1) == torch.tensor([2, 2, 4, 0])).all()


@pytest.mark.parametrize("seed", range(24))
def test_blows_of_a_true_storyboard_are_instants_already(seed: int) -> None:
    board = to_tokens(storyboard(perform(draw_scene(seed, "train"))))[None]
    assert torch.equal(at_instants(board), board)


def ticking(speed: str, seed: int = 0, other: Actor = DRUM) -> Tensor:
    """(1, T, 128), on the strip: a metronome beside another actor."""
    scene = Scene((other, Actor("metronome", "tick", "green", speed=speed)), seconds=3.0, seed=seed)
    return to_tokens(storyboard(perform(scene)))[None]


@pytest.mark.parametrize("speed", ["slow", "fast"])
@pytest.mark.parametrize("seed", range(6))
def test_metronomes_keep_time(speed: str, seed: int) -> None:
    """Drawn swings were uneven, and a tick was seen where none was heard."""
    assert KINDS[METRONOME] == "metronome"
    true = ticking(speed, seed)
    turns = channels("turn", 1)
    assert (from_tokens(in_time(true)) - from_tokens(true)).abs().max() < 0.015  # swings evenly already
    rough = from_tokens(true).clone()
    noise = torch.Generator().manual_seed(seed)
    rough[..., turns] += 0.2 * torch.randn(rough[..., turns].shape, generator=noise)
    rough[:, 5, turns] = 0.0  # one tick is missing
    even = from_tokens(in_time(to_tokens(rough)))
    assert (even[..., turns] - from_tokens(true)[..., turns]).square().mean().sqrt() < 0.1
    rest = torch.ones(128, dtype=torch.bool)
    rest[turns] = False
    assert torch.equal(in_time(to_tokens(rough))[..., rest], to_tokens(rough)[..., rest])


def test_a_metronome_goes_on_as_it_began_and_nobody_else_keeps_time() -> None:
    true, held = ticking("slow"), torch.arange(12) < 6
    turns, rough = channels("turn", 1), from_tokens(true).clone()
    rough[:, 6:, turns] = 0.0
    gone_on = in_time(to_tokens(rough), held)
    assert torch.equal(gone_on[:, :6], to_tokens(rough)[:, :6])
    assert (from_tokens(gone_on) - from_tokens(true))[..., turns].abs().max() < 0.12
    bell = to_tokens(storyboard(perform(Scene((Actor("bell", "ring", "red", count=2), BIRD), seconds=3.0))))[None]
    assert torch.equal(in_time(bell), bell)


def test_a_still_picture_holds_one_frame() -> None:
    board = storyboard(perform(Scene((CAR,), camera="pan", seconds=2.0)))[None]
    for frame in (0, -1):
        token = from_tokens(hold(to_tokens(board), frame))
        assert token.shape == (1, 1, 128)
        expected = frames_of(board[0], "x")[frame]
        assert frames_of(token[0], "x") == pytest.approx([expected] * 4)
    assert torch.equal(hold(board, 0)[..., channels("kind", 0)], board[:, :1, channels("kind", 0)])


def test_what_moves_evenly_stands_in_few_numbers() -> None:
    """Four frames stand as their cosine transform; of a car at even speed little is left behind the slope."""
    board = to_tokens(storyboard(perform(Scene((CAR,), seconds=3.0, seed=2))))
    coefficients = board[2:6, channels("x", 0)].abs()
    assert (
        coefficients[:, 0].gt(1).any()
        and coefficients[:, 1].gt(0.2).all()
        and coefficients[:, 2].max() < 1e-5
        and coefficients[:, 3].max() < 0.3
    )
    torch.testing.assert_close(to_tokens(from_tokens(board)), board, rtol=1e-5, atol=1e-5)


def test_numbers_weigh_by_what_they_are_worth() -> None:
    weights = worth()
    assert float(weights.mean()) == pytest.approx(1, abs=1e-5)
    for name, value in WORTH.items():
        for slot in range(SLOTS) if name in OF_ACTOR else (None,):
            span = weights[channels(name, slot)]
            torch.testing.assert_close(span, torch.full_like(span, value * float(weights[channels("x", 0)][0])))
    g = Geometry(0, 4, 4, boards=2)
    x0, learn = torch.zeros(1, 2, 128), torch.ones(1, 2)
    question = Question(x0, learn, x0, learn, torch.zeros(1, dtype=torch.bool), g)
    for number in (0, channels("sky").start, channels("radius", 1).start):
        answer = x0.clone()
        answer[..., number] = 1
        assert float(error(answer, question).mean()) == pytest.approx(float(weights[number]) / BOARD_CHANNELS)


@pytest.mark.parametrize("seed", range(12))
def test_nobody_changes_in_a_true_storyboard_and_none_in_a_steady_one(seed: int) -> None:
    scene = draw_scene(seed, "train", seconds=3.0)
    board = to_tokens(storyboard(perform(scene)))
    torch.testing.assert_close(steady(board), board, rtol=1e-4, atol=1e-4)
    shaken = steady(board + 0.3 * torch.randn(board.shape, generator=torch.Generator().manual_seed(seed)))
    who = from_tokens(shaken)[:, channels("kind", 0)]
    assert (who.std(0) < 1e-5).all() and int(who[0].argmax()) == KINDS.index(scene.actors[0].kind)
    torch.testing.assert_close(steady(shaken), shaken, rtol=1e-4, atol=1e-4)


def test_a_wall_stands_still_and_where_none_is_nothing_is_changed() -> None:
    """Its edges jumped by up to three pixels from token to token, and then nobody took it for a wall."""
    shake = 0.1 * torch.randn(12, 128, generator=torch.Generator().manual_seed(0))
    walled, bare = (to_tokens(storyboard(perform(Scene((a,), seconds=3.0)))) for a in (BALL, CAR))
    standing = from_tokens(steady(walled + shake))[:, channels("wall")]
    assert (standing.std(0) < 1e-5).all()
    torch.testing.assert_close(standing[0], from_tokens(walled + shake)[:, channels("wall")].mean(0))
    torch.testing.assert_close(
        from_tokens(steady(bare + shake))[:, channels("wall")], from_tokens(bare + shake)[:, channels("wall")]
    )


def test_it_rains_where_somebody_is_rain() -> None:
    rain = Actor("rain", "rain", None, speed="fast")
    scenes = [Scene((a,), seconds=3.0) for a in (rain, BIRD, BALL)]
    boards = torch.stack([to_tokens(storyboard(perform(scene))) for scene in scenes])
    assert rains(boards).tolist() == [True, False, False] and not rains(torch.zeros_like(boards)).any()


def test_the_places_of_the_set_move_with_the_camera() -> None:
    board = torch.zeros(1, 2, 128)
    board[0, 1, channels("pan")] = 0.5  # a latent's width to the right
    still, panned = splat(to_tokens(board), 4, 4)[0, ..., -12:]
    torch.testing.assert_close(panned[:, :-1], still[:, 1:])
    assert (panned - still)[..., :6].abs().max() > 0.2


def test_what_is_drawn_is_near_the_actor_and_nowhere_else() -> None:
    board = torch.zeros(1, 1, 128)
    assert not splat(board, 4, 4)[..., :-23].any() and not outline(board, 4, 4).any()
    board[..., channels("x", 1)], board[..., channels("y", 1)] = -1.25, 0.75  # column 1, row 5 of the latents
    board[..., channels("radius", 1)], board[..., channels("seen", 1)] = 0.5, 1.0
    board[..., channels("kind", 1).start + 3] = ON
    board = to_tokens(board)
    drawn = splat(board, 4, 4)[0, 0]
    assert drawn.shape == (8, 8, SPLAT)
    near = drawn[..., 0]
    assert divmod(int(near.argmax()), 8) == (5, 1) and near.max() == 1 and near[0, 7] < 1e-6
    assert drawn[5, 2, 4:8].gt(0).all() and drawn[5, 0, 4:8].lt(0).all()  # which way: right of it, left of it
    assert drawn[5, 1, 24 + 3] == ON and drawn[5, 1, 24:-23].sum() == ON
    lines = outline(board, 4, 4)[0, 0].view(8, 8, 4, 4, 3, 4)  # rows, columns, places; inside or where; frames
    inside = lines[..., 0, 0].permute(0, 2, 1, 3).reshape(32, 32)  # of the first frame, every 4 pixels
    rows, columns = (inside > 0.5).nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (18, 25, 2, 9)  # 16 pixels around (24, 88)
    assert inside.sum() * 16 == pytest.approx(np.pi * 16**2, rel=0.05)


def test_poses_are_plain_around_whoever_is_nearest() -> None:
    board = torch.zeros(1, 1, 128)
    assert not poses(board, 4, 4).any()
    for slot, (x, open_) in enumerate(((-1.25, 0.8), (1.25, 0.3))):
        board[..., channels("x", slot)], board[..., channels("y", slot)] = x, 0.25
        board[..., channels("radius", slot)], board[..., channels("seen", slot)] = 0.4, 1.0
        board[..., channels("pose", slot)] = open_
        board[..., channels("turn", slot).start + 2] = -open_
    shown = poses(to_tokens(board), 4, 4)[0, 0].view(8, 8, 3, 4)  # rows, columns; pose, turn, round; frames
    for column, open_ in ((1, 0.8), (6, 0.3)):
        torch.testing.assert_close(shown[3:6, column, 0], torch.full((3, 4), open_), rtol=0.3, atol=0)
        torch.testing.assert_close(shown[4, column, 0], torch.full((4,), open_), rtol=0.05, atol=0)
        assert shown[4, column, 1].tolist() == pytest.approx([0, 0, -open_, 0], rel=0.05, abs=1e-6)
    assert shown[0].abs().max() < 1e-3 and not shown[..., 2, :].any()
    board[..., channels("seen", 0)] = 0
    assert poses(to_tokens(board), 4, 4)[0, 0, 4, 1].abs().max() < 1e-6  # nobody is seen there


def test_the_strip_takes_a_storyboard_and_gives_it_back() -> None:
    g = Geometry(3, 2, 2, 6, (0.0,))
    bare = Latents(torch.randn(2, g.n, 128), g, torch.rand(2, g.n))
    board = torch.randn(2, 3, 128)
    strip = with_board(bare, board, free=0)
    assert torch.equal(strip.values_BND[:, strip.geometry.board], board)
    assert (strip.mask_BN[:, strip.geometry.board] == 0).all()
    assert strip.geometry.positions()[strip.geometry.board].tolist() == [[0.125, 0, 0], [0.375, 0, 0], [0.625, 0, 0]]
    back = without_board(strip)
    assert back.geometry == g and torch.equal(back.values_BND, bare.values_BND)
    assert torch.equal(back.mask_BN, bare.mask_BN)
    alone, beside = strip_noise([4], g), strip_noise([4], strip.geometry)
    assert torch.equal(beside[:, : g.n], alone) and (beside[:, g.n :, BOARD_CHANNELS:] == 0).all()


@pytest.mark.parametrize(
    ("given", "seen"),
    [("nothing", Geometry(0, 2, 2)), ("audio", Geometry(0, 2, 2, 4)), ("video", Geometry(2, 2, 2, 4)),
     ("extra", Geometry(0, 2, 2, 4, (0.5,)))],
)  # fmt: skip
def test_it_is_drawn_ahead_with_what_is_given_in_sight(given: str, seen: Geometry) -> None:
    g = Geometry(2, 2, 2, 4, (0.5,) if given == "extra" else ())
    x, mask = torch.randn(1, g.n, 128), torch.ones(1, g.n)
    if given != "nothing":
        mask[:, getattr(g, given)] = 0
    asked: list[Geometry] = []

    def bind(geometry: Geometry) -> Any:
        def denoise(x_BND: Tensor, t_BN: Tensor) -> Tensor:
            asked.append(geometry)
            rest = slice(0, geometry.board.start)
            shown = slice(g.n - seen.n, None) if seen.n else slice(0, 0)
            assert torch.equal(x_BND[:, rest], x[:, shown]) and torch.equal(t_BN[:, rest], mask[:, shown])
            return torch.full_like(x_BND, 3.0)

        return denoise

    board = draw_board(bind, x, mask, g, torch.randn(1, 2, 128), Euler(), uniform_times(3))
    assert len(asked) == 3 and set(asked) == {replace(seen, boards=2)}
    torch.testing.assert_close(board, torch.full((1, 2, 128), 3.0))


def test_only_faces_take_over_a_mouth() -> None:
    cast = [
        (DRUM, Actor("woman", "say", "red", word="hello")),
        (Actor("robot", "say", "red", word="moon"), DRUM),
        (BALL,),
        (Actor("rain", "rain", speed="slow"),),
    ]
    boards = torch.stack([to_tokens(storyboard(perform(Scene(actors, seed=k)))) for k, actors in enumerate(cast)])
    assert speaks(boards).tolist() == [[False, True], [True, False], [False, False], [False, False]]
    other = boards.clone()
    for slot in range(SLOTS):
        other[..., channels("pose", slot)] += 1
        other[..., channels("round", slot)] -= 1
    other[0, :, channels("x", 1)] += 1  # stays where it was
    mixed = with_lips(boards, other)
    changed = {(b, k) for b, k in (mixed != boards).any(1).nonzero().tolist()}
    wanted = {
        (b, k)
        for b, slot in ((0, 1), (1, 0))
        for name in ("pose", "round")
        for k in range(channels(name, slot).start, channels(name, slot).stop)
    }
    assert changed == wanted
    assert torch.equal(with_lips(boards, boards.roll(2, 0)), boards)  # nobody speaks in both at one place


@torch.no_grad()
def test_mouths_follow_the_first_sound_and_nothing_is_done_where_nobody_speaks() -> None:
    g = Geometry(12, 4, 4, 24)
    woman = to_tokens(storyboard(perform(Scene((Actor("woman", "say", "red", word="hello"),), seed=1))))[None]
    other = to_tokens(storyboard(perform(Scene((Actor("woman", "say", "red", word="moon"),), seed=2))))[None]
    x, mask = torch.randn(1, g.n, 128), torch.ones(1, g.n)
    asked: list[Geometry] = []

    def sound(x_BND: Tensor, mask_BN: Tensor, geometry: Geometry) -> Tensor:
        asked.append(geometry)
        assert x_BND.shape[1] == mask_BN.shape[1] == geometry.n
        assert torch.equal(x_BND[:, geometry.board], woman) and not mask_BN[:, geometry.board].any()
        assert torch.equal(x_BND[:, geometry.audio], x[:, g.audio])  # the noise of the film's own sound
        return torch.full_like(x_BND, 0.5)

    def draw(x_BND: Tensor, mask_BN: Tensor) -> Tensor:
        assert (x_BND[:, g.audio] == 0.5).all() and not mask_BN[:, g.audio].any()
        assert torch.equal(x_BND[:, g.video], x[:, g.video]) and mask_BN[:, g.video].all()
        return other

    mixed = lip_sync(woman, x, mask, g, sound, draw)
    assert asked == [replace(g, latents=0, boards=12)]
    torch.testing.assert_close(mixed, with_lips(woman, other))
    assert not torch.equal(mixed, woman)
    asked.clear()
    ball = to_tokens(storyboard(perform(Scene((BALL,), seed=1))))[None]
    assert torch.equal(lip_sync(ball, x, mask, g, sound, draw), ball)
    for track in (g.audio, g.video):
        given = mask.clone()
        given[:, track] = 0
        assert torch.equal(lip_sync(woman, x, given, g, sound, draw), woman)
    assert not asked


@pytest.mark.parametrize("split", ["train_like", "held_out_combinations"])
def test_a_true_storyboard_is_decided(split: str) -> None:
    for seed in range(24):
        board = to_tokens(storyboard(perform(draw_scene(seed, split))))[None]
        assert torch.equal(decided(board), board)


def test_what_is_left_open_is_decided() -> None:
    """An actor is of one kind and colour, a set has one sun."""
    true = from_tokens(to_tokens(storyboard(perform(Scene((BALL, DRUM), camera="pan", seconds=2.0)))))[None]
    kind, colour, sky = channels("kind", 1), channels("colour", 1), channels("sky")
    vague = true.clone()
    vague[..., kind] = vague[..., kind] / 2 + 0.05 * torch.arange(11) / 11
    vague[..., colour] = 0.18
    vague[..., colour.start + 6] = 0.23
    vague[..., channels("floor")] = torch.tensor([0.2, 1.3, 0.7])
    vague[..., channels("material", 1)] = torch.tensor([0.1, -0.2, 0.2])  # a drum has none
    vague[..., sky] *= torch.tensor([0.3, 1.4, 0.3, 1.4])
    wanted = true.clone()
    wanted[..., colour], wanted[..., channels("floor")] = ON * torch.eye(10)[6], ON * torch.eye(3)[1]
    torch.testing.assert_close(from_tokens(decided(to_tokens(vague))), wanted, rtol=0, atol=1e-4)
    assert not decided(torch.zeros(1, 8, 128)).any()  # nobody is nobody
