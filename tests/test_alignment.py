"""Truth as a teacher: the maps say what the playhouse knows, and learning from them works."""

from __future__ import annotations

import torch

from phonofilm.latents import Geometry, patchify
from phonofilm.playhouse.casting import draw_scene
from phonofilm.playhouse.playhouse import film
from phonofilm.playhouse.scene import COLOURS, KINDS, Actor, Scene
from phonofilm.playhouse.speech import WORDS
from phonofilm.playhouse.stage import perform
from phonofilm.train.alignment import CLAIMS, HEARD, Alignment, claimed, spoken, token_weights, truth_maps


def test_maps_show_the_actor_where_it_is_and_its_colour() -> None:
    scenes = [Scene((Actor("drum", "strike", "green", count=2),), seed=1), draw_scene(3, "train", seconds=3.0)]
    shot = film(scenes)
    maps = truth_maps(shot)
    kind, colour = maps["seen"][0]
    assert kind.shape == (12, 8, 8) and set(kind.unique().tolist()) == {0, KINDS.index("drum") + 1}
    assert torch.equal(kind > 0, colour == COLOURS.index("green") + 1)
    for t in range(12):
        left, top, right, bottom = torch.from_numpy(shot.sights[0][0].box[4 * t : 4 * t + 4]).mean(0).div(16).tolist()
        rows, columns = (kind[t] > 0).nonzero().T
        assert int(rows.min()) >= int(top) and int(rows.max()) < bottom
        assert int(columns.min()) >= int(left) and int(columns.max()) < right
        assert (kind[t] > 0).sum() >= 0.6 * (right - left) * (bottom - top)


def test_maps_tell_what_is_heard_in_each_column() -> None:
    scene = Scene((Actor("drum", "strike", "red", count=3), Actor("robot", "say", "blue", word="hello")), seed=5)
    shot = film([scene])
    heard = truth_maps(shot)["heard"][0]
    assert heard.shape == (24, len(HEARD) + 1)
    strikes = [e.time for e in shot.performances[0].events if e.kind == "strike"]
    assert heard[:, HEARD.index("strike")].nonzero().flatten().tolist() == [int(t * 8) for t in strikes]
    word = next(e for e in shot.performances[0].events if e.kind == "word")
    spoken = (heard[:, -1] == WORDS.index("hello") + 1).nonzero().flatten()
    assert spoken[0] == int(word.time * 8) and spoken[-1] == int((word.time + word.seconds) * 8)
    assert set(heard[:, -1].unique().tolist()) == {0, WORDS.index("hello") + 1}


def test_tokens_of_the_storyboard_tell_which_word_is_spoken() -> None:
    scene = Scene((Actor("drum", "strike", "red", count=3), Actor("robot", "say", "blue", word="hello")), seed=5)
    play = perform(scene)
    word = next(e for e in play.events if e.kind == "word")
    said = spoken(play, 12)
    assert said.dtype == torch.int64 and set(said.tolist()) == {0, WORDS.index("hello") + 1}
    at = said.nonzero().flatten()
    assert at[0] == int(4 * word.time) and at[-1] == int(4 * (word.time + word.seconds))
    assert not spoken(perform(Scene((Actor("rain", "rain", speed="slow"),))), 12).any()


def test_storyboards_are_asked_which_word_is_spoken_and_what_is_so() -> None:
    torch.manual_seed(0)
    heads, g = Alignment(32, 2), Geometry(0, 4, 4, boards=3)
    said = torch.tensor([[0, 5, 5], [0, 0, 0]])
    so = torch.tensor([[1] * len(CLAIMS), [2] * len(CLAIMS)])
    h = torch.randn(2, 3, 32, requires_grad=True)
    optimizer = torch.optim.Adam([h, *heads.parameters()], lr=0.03)
    learn, t = torch.ones(2, 3), torch.full((2, 3), 0.99)
    learn[0, 2] = 0
    for _ in range(80):
        loss, points = heads(h, {"spoken": said, "so": so}, g, learn, t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 and points["spoken"] == 1
    nothing, points = heads(h, {"spoken": said, "so": so}, g, torch.zeros(2, 3), t)
    assert nothing.item() == 0 and not points


def test_claims_are_numbered() -> None:
    scene = Scene((Actor("ball", "bounce", "pink", material="wood", count=2), Actor("man", "say", "blue", word="moon")))
    numbers = claimed(scene, frozenset({"0.kind", "0.count", "1.word", "light"}))
    told = {name: number for name, number in zip(CLAIMS, numbers, strict=True) if number}
    assert told == {"0.kind": 1, "0.count": 2, "1.word": WORDS.index("moon") + 1, "light": 1}
    so = {name: number for name, number in zip(CLAIMS, claimed(scene), strict=True) if number}
    assert told.items() <= so.items() and so["camera"] == 1
    alone = dict(zip(CLAIMS, claimed(Scene((Actor("rain", "rain"),))), strict=True))
    assert alone["0.colour"] == 0 and not any(number for name, number in alone.items() if name.startswith("1."))


def test_tokens_that_show_an_actor_weigh_more() -> None:
    maps = truth_maps(film([draw_scene(k, "train", seconds=3.0) for k in range(4)]))
    g = Geometry.of_clip(128, 128, 3.0)
    weight = token_weights(maps, g, 3.0)
    assert weight is not None and set(weight.unique().tolist()) == {1.0, 4.0}
    shown = patchify((maps["seen"][:, :1] > 0).float().expand(-1, 32, -1, -1, -1)).amax(-1) > 0
    assert torch.equal(weight[:, g.video] > 1, shown) and bool((weight[:, g.audio] == 1).all())
    assert token_weights({}, g, 3.0) is None
    assert token_weights(maps, Geometry(1, 4, 4), 3.0) is None  # a still knows no truth


def test_heads_read_off_what_is_there_and_ask_nothing_of_what_is_given() -> None:
    """From tokens that hold the truth it is learnt in a few steps; where nothing is to be learnt the loss is 0."""
    torch.manual_seed(0)
    scenes = [draw_scene(k, "train", seconds=3.0) for k in range(4)]
    maps = truth_maps(film(scenes)) | {"so": torch.tensor([claimed(scene) for scene in scenes])}
    g = Geometry.of_clip(128, 128, 3.0)
    heads = Alignment(64, 2)
    stream = torch.randn(4, 6 * 16 + 24, 64, requires_grad=True)
    learn, blind = torch.ones(4, g.n), torch.ones(4, g.n)
    optimizer = torch.optim.Adam([stream, *heads.parameters()], lr=0.05)
    losses = []
    for _ in range(40):
        loss, points = heads(stream, maps, g, learn, blind)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]
    assert min(float(points[name]) for name in ("kind", "colour", "camera", "act", "speed")) > 0.9
    assert float(heads(stream, maps, g, torch.zeros(4, g.n), blind)[0].detach()) == 0
    assert float(heads(stream, {}, g, learn, blind)[0].detach()) == 0
