"""What is seen tells when it is heard; and a storyboard is read off the picture that it explains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from phonofilm import checkpoint
from phonofilm.clip import Audio, Clip
from phonofilm.diffusion.ahead import read_board
from phonofilm.diffusion.schedule import shifted_times
from phonofilm.engines.making import Defaults
from phonofilm.engines.native import NativeEngine, shipped_weights
from phonofilm.errors import CheckpointError
from phonofilm.evaluate.hearing import find_onsets
from phonofilm.latents import Geometry
from phonofilm.model.timer import FILE, Timer, TimerConfig, load_timer
from phonofilm.playhouse.casting import draw_scene
from phonofilm.playhouse.playhouse import film
from phonofilm.playhouse.scene import Actor, Scene
from phonofilm.playhouse.stage import perform
from phonofilm.playhouse.storyboard import storyboard
from phonofilm.request import Request
from phonofilm.storyboard import channels, from_tokens, heard, measured, steady, to_tokens, under_skies
from phonofilm.train.timer import TimerTraining, train_timer

SMALL, TINY = TimerTraining(scenes=60, steps=200, batch=16, save_steps=100), TimerConfig(width=32, blocks=1)


def boards(seeds: range) -> Tensor:
    """(N, 12, 128): storyboards of held-out scenes of 3 s, as on the strip."""
    scenes = [draw_scene(seed, "held_out_combinations", seconds=3.0) for seed in seeds]
    return torch.stack([to_tokens(storyboard(perform(scene))) for scene in scenes])


def instants(board_TD: Tensor, slot: int) -> list[float]:
    """Seconds of the blows of an actor."""
    hits, found, k = from_tokens(board_TD)[:, channels("hit", slot)].flatten(), [], 0
    while k < len(hits):
        if hits[k] > 0.45:
            first = max(0, k - 1)
            around = hits[first : k + 3].clamp(min=0)
            found.append((float((around * torch.arange(len(around))).sum() / around.sum()) + first + 0.5) / 16)
            k += 3
        else:
            k += 1
    return found


def test_it_learns_and_goes_on_exactly_where_it_stopped(tmp_path: Path) -> None:
    def stop(step: int, steps: int, loss: float) -> None:
        assert steps == SMALL.steps and loss > 0
        raise KeyboardInterrupt

    losses: list[float] = []
    whole = train_timer(tmp_path / "a", SMALL, TINY, lambda *p: losses.append(p[2]))
    with pytest.raises(KeyboardInterrupt):
        train_timer(tmp_path / "b", SMALL, TINY, stop)
    assert checkpoint.load_state(tmp_path / "b" / "timer.state")["step"] == 100
    assert not (tmp_path / "b" / FILE).exists()
    again = train_timer(tmp_path / "b", SMALL, TINY)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert losses[1] < losses[0]


def test_what_is_heard_is_told_by_what_is_seen_alone() -> None:
    timer = load_timer(shipped_weights() / FILE)
    board = boards(range(24))
    other = board.clone()
    plain = from_tokens(other)
    plain[..., heard()] = torch.rand(*plain.shape[:-1], int(heard().sum()))
    timed = timer.timed(to_tokens(plain))
    assert torch.allclose(timed, timer.timed(board), atol=1e-4)
    assert torch.allclose(from_tokens(timed)[..., ~heard()], from_tokens(board)[..., ~heard()], atol=1e-4)


def test_the_shipped_timer_knows_when() -> None:
    """On scenes of pairs of attributes that were never trained together."""
    timer = load_timer(shipped_weights() / FILE)
    true = boards(range(200, 320))
    timed = timer.timed(true)
    lags, counts = [], []
    for one, other in zip(timed, true, strict=True):
        for slot in (0, 1):
            wanted, got = instants(other, slot), instants(one, slot)
            if wanted:
                counts.append(len(got) == len(wanted))
                lags += [min((abs(t - s) for s in got), default=1.0) for t in wanted]
    assert len(lags) > 100
    assert float(torch.tensor(lags).median()) < 0.010
    assert float(torch.tensor(lags).quantile(0.9)) < 0.040
    assert sum(counts) / len(counts) > 0.95


def test_another_file_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / FILE, Timer(TINY).state_dict(), kind="matcher", config={})
    with pytest.raises(CheckpointError):
        load_timer(tmp_path / FILE)
    (tmp_path / FILE).unlink()
    assert NativeEngine(tmp_path).timer is None


@pytest.mark.parametrize("known", [8, 4])
def test_a_storyboard_is_read_off_what_it_explains(known: int) -> None:
    """A denoiser that knows nothing but four guesses; the surprise is the distance from another storyboard. What is
    not known goes on from the guess that explains the last known token."""
    T, K, steps = 8, 4, 6
    truth = boards(range(1))[:, :T]
    draw = torch.Generator().manual_seed(0)
    offsets = torch.randn(K, T, 1, generator=draw)
    guesses = truth + offsets * measured() * 0.5

    def bind(g: Geometry):  # type: ignore[no-untyped-def]
        assert g.boards == T
        return lambda x, t: torch.cat([x[:, : g.n - T], guesses], dim=1)

    def explain(board: Tensor) -> Tensor:
        return (board - truth).square().mean(-1)

    g = Geometry(T, 4, 4)
    x, mask = torch.zeros(1, g.n, 128), torch.ones(1, g.n)
    mask[:, : known * 16] = 0
    noise = torch.randn(1, steps + 1, K, T, 128, generator=draw)
    told = torch.arange(T) < known
    found = read_board(bind, x, mask, g, noise, explain, told, shifted_times(steps, 3.0))
    before, after = explain(guesses)[:, :known].mean(1).min(), explain(found)[0, :known].mean()
    assert float(after) < 0.7 * float(before)
    assert torch.allclose(found[..., ~measured()], truth[..., ~measured()], atol=1e-3)
    if known < T:
        path = from_tokens(found)[0, known + 1 :, channels("x", 0)]
        assert any(torch.allclose(path, from_tokens(g)[known + 1 :, channels("x", 0)], atol=1e-4) for g in guesses)


def test_skies_turn_and_nothing_else_changes() -> None:
    board = boards(range(2))
    some = from_tokens(under_skies(board, 1, 4))
    sky = some[..., channels("sky")]
    assert torch.allclose(sky[0, :, 0, 1], torch.tensor([0.0, 1, 0, -1]), atol=1e-5)
    assert torch.allclose(sky[0, :, 0, 3], torch.tensor([1.0, 0, -1, 0]), atol=1e-5)
    some[..., channels("sky")] = from_tokens(board)[:, None, :, channels("sky")]
    assert torch.allclose(some, from_tokens(board)[:, None].expand_as(some), atol=1e-4)


def test_who_is_there_is_told_by_the_tokens_that_are_known() -> None:
    one, other = boards(range(2))
    known = torch.arange(12) < 5
    mixed = steady(torch.where(known[:, None], one, other)[None], known)[0]
    lasting = [channels(name, 0) for name in ("kind", "colour")] + [channels("floor"), channels("sky")]
    for span in lasting:
        assert torch.allclose(from_tokens(mixed)[:, span], from_tokens(one)[:, span], atol=1e-4)
    assert torch.allclose(from_tokens(mixed)[5:, channels("x", 0)], from_tokens(other)[5:, channels("x", 0)], atol=1e-4)


def test_a_given_picture_is_heard_when_it_is_seen() -> None:
    """The whole engine: a silent film of a falling box, and a prompt that does not say when it lands."""
    scene = next(
        s for k in range(200) if (s := draw_scene(k, "train_like", seconds=2.0)).actors[0].act == "fall"
        and len(s.actors) == 1
    )  # fmt: skip
    shot = film([scene])
    (hit,) = (event.time for event in shot.performances[0].events if event.kind == "impact")
    engine = NativeEngine(shipped_weights(), device="cpu", defaults=Defaults(drafts=4, boards=8))
    request = Request("a box falls", seconds=2.0, seed=1)
    made = engine.make(request, {"video": Clip(shot.frames[0].numpy(), 16.0)})
    assert made.audio is not None
    loud = np.abs(made.audio.samples[0])
    first = int(np.argmax(loud > 0.3 * loud.max())) / made.audio.sample_rate
    assert abs(first - hit) < 0.08
    assert np.array_equal(made.frames, shot.frames[0].numpy())
    # nothing is put off: that is for what is painted, and smeared
    late = NativeEngine(shipped_weights(), device="cpu", defaults=Defaults(drafts=4, boards=8, hit_delay=0.05))
    again = late.make(request, {"video": Clip(shot.frames[0].numpy(), 16.0)})
    assert again.audio is not None and np.array_equal(again.audio.samples, made.audio.samples)


@pytest.mark.parametrize("prompt", ["a green metronome ticks slowly", "a small red metronome ticks fast"])
def test_a_metronome_is_heard_evenly(prompt: str) -> None:
    """The whole engine; four of these eight films were uneven before, one of them held a single tick."""
    engine = NativeEngine(shipped_weights(), device="cpu")
    for clip in engine.make_batch([prompt] * 4, [1, 2, 3, 4], 3.0, (128, 128), steps=4):
        assert clip.audio is not None
        between = np.diff(find_onsets(clip.audio.samples[0]).times)
        assert len(between) >= (6 if "fast" in prompt else 2)
        assert np.ptp(between) < 0.05


@pytest.mark.parametrize("given", ["nothing", "its end is not", "sound"])
def test_a_metronome_keeps_its_own_time_but_beside_a_sound_that_is_given(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Tensor | None] = []

    def kept(board_BTD: Tensor, held_T: Tensor | None = None) -> Tensor:
        asked.append(held_T)
        return board_BTD

    monkeypatch.setattr("phonofilm.engines.making.in_time", kept)
    engine = NativeEngine(shipped_weights(), device="cpu", defaults=Defaults(drafts=1, boards=2, steps=2))
    scene = Scene((Actor("metronome", "tick", "green", speed="slow"),), seconds=2.0)
    shot = film([scene])
    clip = Clip(shot.frames[0].numpy(), 16.0, Audio(shot.audio[:1].numpy(), 16_000))
    role = {"nothing": {}, "its end is not": {"continue": clip}, "sound": {"audio": clip}}[given]
    engine.make(Request("a metronome ticks", seconds=2.0, seed=1), role)
    assert bool(asked) == (given != "sound")
    if given == "its end is not":
        assert all(held is not None and held.any() and not held.all() for held in asked)
