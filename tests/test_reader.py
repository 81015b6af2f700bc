"""The reader: what is claimed and shown, how it learns, and that the best of several storyboards is filmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_weights
from torch import Tensor

from phonofilm.diffusion.ahead import best_board
from phonofilm.engines import NativeEngine
from phonofilm.engines.making import Defaults
from phonofilm.latents import Geometry
from phonofilm.model.denoiser import Denoiser
from phonofilm.model.reader import MOST, Reader
from phonofilm.playhouse.casting import draw_scene
from phonofilm.playhouse.scene import Actor, Scene
from phonofilm.playhouse.stage import perform
from phonofilm.playhouse.storyboard import storyboard
from phonofilm.storyboard import CLAIMS, ON, blows, channels, decided, from_tokens, to_tokens
from phonofilm.train.alignment import claimed, reading_error

PLACES = channels("x", 0)
SCENES = [
    Scene((Actor("drum", "strike", "red", count=count),), light=light, seed=seed)
    for count in (1, 2, 3)
    for light in ("day", "night")
    for seed in (3, 4)
]

MASK = (torch.arange(6) < 4).expand(len(SCENES), -1)  # of captions: four tokens are text


def lesson() -> dict[str, Any]:
    so = torch.tensor([claimed(scene) for scene in SCENES])
    told = torch.tensor([claimed(scene, {"0.kind", "0.count", "light"}) for scene in SCENES])
    board = torch.stack([to_tokens(storyboard(perform(scene))) for scene in SCENES])
    return {"board": board, "so": so, "told": told}


@pytest.fixture(scope="module")
def taught() -> tuple[Reader, Tensor, dict[str, Any]]:
    """A reader that knows SCENES by heart, and vectors for their captions."""
    torch.manual_seed(0)
    batch = lesson()
    text = torch.randn(len(SCENES), 6, 32, requires_grad=True)
    dropped = torch.zeros(len(SCENES), dtype=torch.bool)
    dropped[0] = True
    reader = Reader(32, 48)
    optimizer = torch.optim.Adam([text, *reader.parameters()], lr=0.01)
    for step in range(150):
        loss, points = reading_error(reader, batch, text, MASK, dropped, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        assert text.grad is not None
        assert not text.grad[0].any() and not text.grad[:, 4:].any()  # dropped, and no text
        optimizer.step()
    assert loss.item() < 0.1 and points["told"] == 1 and points["shown"] > 0.97, (loss, points)
    return reader.eval(), text.detach(), batch


def test_what_a_prompt_claims_and_a_storyboard_shows_is_read(taught: tuple[Reader, Tensor, dict[str, Any]]) -> None:
    reader, text, batch = taught
    with torch.no_grad():
        assert [logits.shape for logits in reader.tell(text, MASK)] == [(12, n + 1) for n in CLAIMS.values()]
        right = reader.doubts(batch["board"], text, MASK)
        wrong = reader.doubts(batch["board"].roll(4, 0), text, MASK)  # another count, the light as it was
        assert (right[1:] < 0.7).all() and (wrong[1:] > 0.7).all() and (wrong[1:] <= MOST * len(CLAIMS)).all()


@pytest.mark.parametrize("split", ["train_like", "held_out_combinations"])
def test_blows_are_counted(split: str) -> None:
    """What strikes, rings, ticks and chirps, also beneath noise and at any instant between frames."""
    wanted, found = [], []
    for seed in range(40):
        play = perform(draw_scene(seed, split, seconds=3.0))
        count = [sum(event.actor == slot for event in play.events) for slot in (0, 1)]
        wanted.append(torch.tensor(count, dtype=torch.float32))
        found.append(blows(to_tokens(storyboard(play))[None])[0])
    assert torch.stack(wanted).amax() >= 4
    assert (torch.stack(found) - torch.stack(wanted)).abs().max() < 0.6  # one may be cut by the clip's end
    assert (torch.stack(found) - torch.stack(wanted)).abs().quantile(0.95) < 0.01


def test_one_blow_too_many_is_no_small_doubt(taught: tuple[Reader, Tensor, dict[str, Any]]) -> None:
    """Nor one of which no reader ever saw the like: the playhouse strikes three times at most."""
    reader, text, batch = taught
    plain = from_tokens(batch["board"])
    plain[:, 0, channels("hit", 0)] = torch.tensor([ON, 0.0, 0.0, 0.0])
    with torch.no_grad():
        before, after = (reader.doubts(b, text, MASK) for b in (batch["board"], to_tokens(plain)))
    assert (after[1:] - before[1:] > 0.9 * MOST).all()


def test_nobody_is_there_whom_the_prompt_does_not_name(taught: tuple[Reader, Tensor, dict[str, Any]]) -> None:
    """Where it names nobody, it leaves open who is there."""
    reader, text, batch = taught
    shown = reader.show(batch["board"])
    told = reader.tell(text, MASK)
    first, second = (list(CLAIMS).index(f"{slot}.kind") for slot in (0, 1))
    assert (told[second].argmax(-1) == 0).all() and (shown[second].argmax(-1) == 0).all()
    haunted = [logits.clone() for logits in shown]
    haunted[second][:, 1] = haunted[second].amax() + 20  # a ball

    def doubts(logits: list[Tensor], claims: list[Tensor]) -> Tensor:
        reader.show, reader.tell = lambda _: logits, lambda *_: claims  # type: ignore[method-assign, assignment]
        try:
            return reader.doubts(batch["board"], text, MASK)
        finally:
            del reader.show, reader.tell

    silent = [logits.clone() for logits in told]
    silent[first][:, 0] = silent[first].amax() + 1
    with torch.no_grad():
        assert (doubts(haunted, told)[1:] - doubts(shown, told)[1:] > 0.9 * MOST).all()
        assert torch.equal(doubts(haunted, silent), doubts(shown, silent))


def test_drafts_are_drawn_until_one_leaves_no_doubt() -> None:
    """Of each prompt the best of all that were drawn, and no more are drawn for those that are content."""
    B, R, K, T, D = 3, 4, 2, 5, 128
    noise = torch.randn(B, R, K, T, D, generator=torch.Generator().manual_seed(0))
    asked: list[list[int]] = []
    bad = torch.full((B, R, K), 9.0)
    bad[0, 0, 1], bad[1, 2, 0], bad[2] = 0.5, 1.0, torch.tensor([[7.0, 6.0], [5.0, 4.0], [8.0, 8.0], [6.0, 5.0]])

    def draw(rows: Tensor, noise_NKTD: Tensor) -> Tensor:
        assert torch.equal(noise_NKTD, noise[rows, len(asked)])
        asked.append(rows.tolist())
        return 2 * noise_NKTD

    best = best_board(draw, lambda rows, boards: bad[rows, len(asked) - 1], noise, 2.0)
    assert asked == [[0, 1, 2], [1, 2], [1, 2], [2]]
    assert torch.equal(best, 2 * torch.stack([noise[0, 0, 1], noise[1, 2, 0], noise[2, 1, 1]]))


def watched(denoiser: Denoiser) -> list[Tensor]:
    """The storyboards (B, T, 128) that pictures are painted beneath, step by step from now on."""
    filmed: list[Tensor] = []
    plain = denoiser.forward

    def watch(x_BND: Tensor, t_BN: Tensor, text_BLC: Tensor, g: Geometry) -> Tensor:
        if g.latents:
            filmed.append(x_BND[:, g.board])
        return plain(x_BND, t_BN, text_BLC, g)

    denoiser.forward = watch  # type: ignore[method-assign]
    return filmed


def test_films_are_made_on_the_draft_that_the_reader_prefers(tmp_path: Path) -> None:
    weights = make_weights(tmp_path)
    prompts, seeds = ["a red ball bounces"] * 2, [1, 2]
    strip = Geometry.of_clip(64, 64, 2.0)

    def boards(drafts: int, prefer: int) -> Tensor:
        """The storyboards that the picture is painted beneath."""
        engine = NativeEngine(weights, defaults=Defaults(steps=1, boards=2, drafts=drafts, again=0.0))
        denoiser = engine._model[0]
        seen: list[Tensor] = []

        def doubts(board_BTD: Tensor, text_BLC: Tensor, mask_BL: Tensor) -> Tensor:
            assert len(board_BTD) == len(text_BLC) == len(mask_BL)
            seen.append(board_BTD)
            return (torch.arange(len(board_BTD)) % drafts != prefer).float()

        denoiser.reader.doubts = doubts  # type: ignore[method-assign, assignment]
        filmed = watched(denoiser)
        with torch.no_grad():
            engine.sample(prompts, seeds, engine._empty(strip))
        if drafts > 1:
            preferred = seen[0].view(2, drafts, *filmed[0].shape[1:])[:, prefer]
            assert torch.equal(filmed[0][..., PLACES], preferred[..., PLACES])  # mouths may follow the sound
        else:
            assert not seen
        return filmed[0]

    assert not torch.equal(boards(3, 0), boards(3, 2))
    assert torch.equal(boards(3, 1), boards(3, 1))
    boards(1, 0)


@pytest.mark.parametrize("given", [False, True])
def test_films_are_made_beneath_a_storyboard_in_which_all_is_decided(tmp_path: Path, given: bool) -> None:
    """But for one that is read off a picture, which may show what is neither the one nor the other."""
    engine = NativeEngine(make_weights(tmp_path))
    filmed = watched(engine._model[0])
    strip = engine._empty(Geometry.of_clip(64, 64, 2.0))
    if given:
        strip.mask_BN[:, strip.geometry.video] = 0
    with torch.no_grad():
        engine.sample(["a red ball bounces"], [1], strip)
    sky = from_tokens(filmed[-1])[..., channels("sky")].unflatten(-1, (2, 2)).norm(dim=-2)
    if given:
        assert (sky - 1).abs().max() > 0.01
    else:
        torch.testing.assert_close(sky, torch.ones_like(sky), rtol=0, atol=1e-3)
        torch.testing.assert_close(decided(filmed[-1]), filmed[-1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("worse", [False, True])
def test_what_is_gone_over_again_is_kept_unless_it_says_less(tmp_path: Path, worse: bool) -> None:
    engine = NativeEngine(make_weights(tmp_path), defaults=Defaults(steps=1, boards=2, drafts=3, again=0.4))
    engine.__dict__["timer"] = None
    denoiser = engine._model[0]
    read: list[Tensor] = []

    def doubts(board_BTD: Tensor, text_BLC: Tensor, mask_BL: Tensor) -> Tensor:
        read.append(board_BTD)
        return torch.tensor([0.0, 1.0, 1.0]) if len(read) == 1 else torch.tensor([0.0, 3.0 if worse else 1.9])

    denoiser.reader.doubts = doubts  # type: ignore[method-assign, assignment]
    filmed = watched(denoiser)
    with torch.no_grad():
        engine.sample(["a red ball bounces"], [1], engine._empty(Geometry.of_clip(64, 64, 2.0)))
    draft, again = read[1].unbind(0)
    assert torch.equal(draft, read[0][0]) and not torch.equal(draft[..., PLACES], again[..., PLACES])
    assert torch.equal(filmed[0][0][..., PLACES], (draft if worse else again)[..., PLACES])
