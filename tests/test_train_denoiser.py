"""Training of the denoiser: tasks, plan, exact resume and extension, and that it learns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from phonofilm import checkpoint
from phonofilm.errors import CheckpointError, InputError, PhonofilmError
from phonofilm.latents import Geometry, unpack
from phonofilm.latents import Latents as Strip
from phonofilm.model.denoiser import DenoiserConfig
from phonofilm.storyboard import hold
from phonofilm.text.encoder import TextEncoderConfig
from phonofilm.text.tokenizer import START
from phonofilm.train.denoiser import KIND, PREDECAY, STATE, DenoiserTraining, Generator, _Run, train_denoiser
from phonofilm.train.optim import Average, split_parameters
from phonofilm.train.schedule import Clock, Plan, bucket
from phonofilm.train.tasks import Batch, Tasks, ask, change_error, error, mean_error

CPU = torch.device("cpu")
SMALL = DenoiserConfig(
    width=64,
    blocks=2,
    head=32,
    text_width=32,
    detail=16,
    detail_blocks=1,
    board_detail=16,
    board_blocks=1,
    sound_detail=16,
    sound_blocks=1,
    reader=16,
)
TEXT = TextEncoderConfig(vocab=130, width=32, layers=1, heads=2, max_length=8)
ONLY_TEXT = Tasks(picture=0, first=0, last=0, continuation=0, video=0, audio=0, untold=0, alone=0)


class Letters:
    """A tokenizer whose tokens are letters."""

    size = TEXT.vocab

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids_BL = torch.zeros(len(texts), TEXT.max_length, dtype=torch.int64)
        for row, text in zip(ids_BL, texts, strict=True):
            ids = [START, *(2 + ord(c) % 128 for c in text)][: TEXT.max_length]
            row[: len(ids)] = torch.tensor(ids)
        return ids_BL, ids_BL > 0


def make_batch(n: int, B: int = 4, T: int = 4, sound: bool = True) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(n)
    video_z = torch.randn(B, 32, T, 4, 4, generator=draw)
    return {
        "video_z": video_z,
        "audio_z": torch.randn(B, 64, 2 * T, generator=draw) if sound else None,
        "captions": [f"{b} {n}" for b in range(B)],
        "first_still": video_z[:, :, :1],
        "last_still": video_z[:, :, -1:],
    }


def endless(n: int) -> Iterator[Batch]:
    while True:
        yield make_batch(n)
        n += 1


def settings(steps: int, **changes: Any) -> DenoiserTraining:
    plan = Plan(steps=steps, warmup=2, decay=0.5)
    base = DenoiserTraining(plan, SMALL, compile=False, bf16=False, save_seconds=0, log_steps=2)
    return replace(base, **changes)


def train(folder: Path, config: DenoiserTraining, batches: Any = endless, **options: Any) -> dict[str, Tensor]:
    path = train_denoiser(folder, config, batches, Letters(), text=TEXT, progress=False, curves=False, **options)
    return checkpoint.load(path, kind="denoiser").tensors


# --- tasks ----------------------------------------------------------------------------------------------------------


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_question_is_the_clean_strip_with_noise_at_its_levels() -> None:
    q = ask(make_batch(0), Tasks(), generator(), CPU)
    given = q.t_BN == 0
    assert torch.equal(q.x_BND[given], q.x0_BND[given])
    noise = (q.x_BND - (1 - q.t_BN[..., None]) * q.x0_BND) / q.t_BN[..., None].clamp(min=1e-3)
    loud = q.t_BN > 0.05
    loud[:, q.geometry.audio] = False
    assert noise[loud].std() == pytest.approx(1, abs=0.05)
    assert torch.equal(q.x0_BND, ask(make_batch(0), Tasks(), generator(), CPU).x0_BND)
    assert torch.equal(q.x_BND, ask(make_batch(0), Tasks(), generator(), CPU).x_BND)
    assert not torch.equal(q.x_BND, ask(make_batch(0), Tasks(), generator(1), CPU).x_BND)


def test_what_is_given_is_not_learnt_and_always_something_is() -> None:
    tasks = Tasks(continuation=0.3, video=0.3, audio=0.3)
    seen = set()
    for seed in range(30):
        q = ask(make_batch(seed), tasks, generator(seed), CPU)
        g = q.geometry
        assert torch.equal(q.learn_BN == 0, q.t_BN == 0)
        assert q.learn_BN.any(1).all()
        assert (q.t_BN[:, g.extra] == 0).all()
        for t_N in q.t_BN:
            video, audio = t_N[g.video] > 0, t_N[g.audio] > 0
            if g.columns and video.all() and audio.all():
                seen.add("made")
            elif g.columns and audio.all() and not video.any():
                seen.add("video given")
            elif g.columns and video.all() and not audio.any():
                seen.add("sound given")
            elif g.columns:
                seen.add("continued")
                latents = int((~video).sum()) // g.n_picture
                assert 2 <= latents <= g.latents // 2
                assert not video[: latents * g.n_picture].any() and not audio[: 2 * latents].any()
                assert video[latents * g.n_picture :].all() and audio[2 * latents :].all()
        seen.add(f"{len(g.images)} images" if g.columns else "picture")
    assert seen == {"made", "video given", "sound given", "continued", "0 images", "1 images", "2 images", "picture"}


def test_stills_are_appended_at_their_instants() -> None:
    batch = make_batch(0)
    q = ask(batch, replace(ONLY_TEXT, first=1, last=1), generator(), CPU)
    assert q.geometry.images == (0.0, 1.0)
    *_, images = unpack(Strip(q.x0_BND, q.geometry, q.t_BN))
    assert torch.equal(images[0][0], batch["first_still"]) and torch.equal(images[1][0], batch["last_still"])


def with_boards(n: int, **sizes: int) -> dict[str, Any]:
    batch = make_batch(n, **sizes)
    B, T = len(batch["video_z"]), batch["video_z"].shape[2]
    return batch | {"board": torch.randn(B, T, 128) * Geometry(0, 1, 1, boards=1).channel_mask()}


def test_storyboards_are_read_guessed_or_missed() -> None:
    tasks = replace(ONLY_TEXT, legible=0.4, unread=0.2, ahead=0.5)
    q = ask(with_boards(0, B=2000, T=2), tasks, generator(), CPU)
    g = q.geometry
    level, rest = q.t_BN[:, g.board.start], q.t_BN[:, : g.board.start]
    assert torch.equal(q.t_BN[:, g.board], level[:, None].expand(-1, 2))
    assert torch.equal(q.learn_BN[:, g.board] == 0, q.t_BN[:, g.board] == 0)
    assert (level == 0).float().mean() == pytest.approx(0.4, abs=0.04)
    assert (level == 1).float().mean() == pytest.approx(0.2, abs=0.04)
    drawn = (level > 0) & (level < 1)
    assert (rest[drawn] == 1).all(1).float().mean() == pytest.approx(0.5, abs=0.06)
    assert (rest[~drawn] == 1).all(1).float().mean() < 0.05
    with pytest.raises(ValueError, match="legible and unread"):
        Tasks(legible=0.7, unread=0.5)


def test_storyboards_alone_are_a_strip_of_their_own() -> None:
    batch = {"board": torch.randn(3, 5, 128), "shape": (2, 4), "captions": ["a", "b", "c"]}
    q = ask(batch, Tasks(), generator(), CPU)
    assert q.geometry == Geometry(0, 2, 4, boards=5) and q.learn_BN.all() and torch.equal(q.x0_BND, batch["board"])
    error_BN = error(q.x0_BND + 1, q)
    assert mean_error(error_BN, q, q.geometry.video) == 0 and mean_error(error_BN, q, q.geometry.board) >= 1


def test_sounds_alone_have_their_storyboards_beside_them() -> None:
    full = with_boards(0, B=400, T=2)
    batch = {k: full[k] for k in ("audio_z", "board", "captions")} | {"shape": (2, 2), "has_audio": torch.ones(400) > 0}
    q = ask(batch, replace(ONLY_TEXT, legible=0.5, unread=0.5, heard=0), generator(), CPU)
    g = q.geometry
    assert g == Geometry(0, 2, 2, 4, boards=2) and q.learn_BN[:, g.audio].all()
    assert (q.t_BN[:, g.board] == 0).all(1).float().mean() == pytest.approx(0.5, abs=0.1)
    answer, _, _ = Generator(SMALL, TEXT, torch.float32)(q, *Letters().encode(batch["captions"]))
    assert answer.shape == q.x0_BND.shape and mean_error(error(answer, q), q, g.audio) > 0


def test_the_detailer_alone_paints_beneath_a_storyboard() -> None:
    q = ask(with_boards(0, T=2), Tasks(alone=1, first=0, last=0, hidden=0, continuation=0, blind=0), generator(), CPU)
    g = q.geometry
    assert q.alone and g == Geometry(2, 2, 2, boards=2) and (q.t_BN[:, g.board] == 0).all()
    assert (q.learn_BN[:, g.video] == 1).all() and (q.learn_BN[:, g.board] == 0).all()
    model = Generator(SMALL, TEXT, torch.float32)
    error(model.paint(q), q).sum().backward()
    taught = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None}
    assert taught == {"detailer", "drawn_detail", "weather_detail"}
    assert not ask(make_batch(0), Tasks(alone=1), generator(), CPU).alone  # no storyboard to see


def test_the_detailer_paints_now_and_then_without_its_storyboard() -> None:
    q = ask(with_boards(0, B=400, T=2), Tasks(alone=1, blind=0.3), generator(), CPU)
    level = q.t_BN[:, q.geometry.board]
    assert ((level == 0) | (level == 1)).all() and (level == 1).all(1).float().mean() == pytest.approx(0.3, abs=0.06)
    blind = level[:, 0] == 1
    assert not torch.equal(q.x_BND[blind][:, q.geometry.board], q.x0_BND[blind][:, q.geometry.board])
    assert not q.learn_BN[:, q.geometry.board].any()


def test_what_changes_little_counts_as_much_as_what_changes_much() -> None:
    q = ask(with_boards(0, T=4), Tasks(alone=1, first=0, last=0, hidden=0, continuation=0), generator(), CPU)
    g, weight = q.geometry, torch.ones_like(q.t_BN)
    assert change_error(q.x0_BND + 1, q, weight) == 0  # nothing is asked for
    weight[:, 0 : g.video.stop : g.n_picture] = 4  # one place
    assert change_error(q.x0_BND + 1, q, weight) < 1e-9  # an error that stays is none of change
    still, shape = q.x0_BND.clone(), (len(weight), 4, -1)
    mean = still[:, g.video].reshape(shape).mean(1, keepdim=True)
    still[:, g.video] = mean.expand(-1, 4, -1).reshape_as(still[:, g.video])
    big, little = change_error(still, q, weight), change_error(still * 0.1, replace(q, x0_BND=0.1 * q.x0_BND), weight)
    assert big == pytest.approx(1, abs=0.1) and little == pytest.approx(0.01 / 0.06, rel=0.2)
    given = replace(q, learn_BN=q.learn_BN.index_fill(1, torch.tensor([0]), 0))
    assert change_error(still, given, weight) == 0  # a place of which a part is given
    assert change_error(still[:, : g.n], replace(q, geometry=replace(g, latents=1, boards=1)), weight) == 0


def test_the_detailer_sees_stills_and_what_is_around_a_rectangle() -> None:
    batch = with_boards(0, T=4)
    q = ask(batch, Tasks(alone=1, first=1, last=1, hidden=0, continuation=0), generator(), CPU)
    g = q.geometry
    assert (
        q.alone and g.images == (0.0, 1.0) and (q.t_BN[:, g.extra] == 0).all() and (q.learn_BN[:, g.extra] == 0).all()
    )
    hidden = ask(batch, Tasks(alone=1, first=0, last=0, hidden=1, continuation=0), generator(), CPU)
    learn = hidden.learn_BN[:, g.video].view(-1, 4, g.height, g.width)
    assert (learn == learn[:, :1]).all() and 0 < learn.mean() < 1
    assert torch.equal(hidden.x_BND[:, g.video][hidden.learn_BN[:, g.video] == 0],
                       hidden.x0_BND[:, g.video][hidden.learn_BN[:, g.video] == 0])  # fmt: skip
    rows, columns = learn[0, 0].amax(1), learn[0, 0].amax(0)
    assert torch.equal(learn[0, 0], rows[:, None] * columns)
    begun = ask(batch, Tasks(alone=1, hidden=0, continuation=1, video=0, audio=0), generator(), CPU)
    learn = begun.learn_BN[:, g.video].view(-1, 4, g.n_picture)
    assert (learn[:, 0] == 0).all() and (learn[:, 2:] == 1).all()


def test_a_sound_that_is_given_asks_for_its_storyboard() -> None:
    batch = with_boards(0, T=4)
    heard = {k: batch[k] for k in ("audio_z", "board", "captions", "first_still", "last_still")}
    heard |= {"shape": (2, 2), "has_audio": torch.ones(len(batch["captions"]), dtype=torch.bool)}
    q = ask(heard, Tasks(continuation=0, heard=1, first=1, last=0), generator(), CPU)
    g = q.geometry
    assert not g.latents and g.images == (0.0,)
    assert (q.t_BN[:, g.audio] == 0).all() and (q.t_BN[:, g.board] > 0).all() and (q.learn_BN[:, g.board] == 1).all()


def test_a_picture_has_the_storyboard_of_its_frame() -> None:
    batch = with_boards(0)
    held = [hold(batch["board"], end)[:, 0] for end in (0, -1)]
    found = [ask(batch, replace(ONLY_TEXT, picture=1), generator(s), CPU).x0_BND[:, -1] for s in range(8)]
    assert all(any(torch.equal(x, h) for h in held) for x in found)
    assert all(any(torch.equal(x, h) for x in found) for h in held)


def test_silent_clips_teach_no_sound() -> None:
    batch = make_batch(0, B=64)
    batch["has_audio"] = torch.arange(64) < 40
    q = ask(batch, Tasks(picture=0, continuation=0.2, video=0.2, audio=0.2), generator(), CPU)
    silent_t, silent_learn = q.t_BN[40:, q.geometry.audio], q.learn_BN[40:, q.geometry.audio]
    assert (silent_t == 1).all() and (silent_learn == 0).all()
    assert q.learn_BN[40:].any(1).all() and q.learn_BN[:40, q.geometry.audio].any()
    alone = ask(make_batch(0, sound=False), ONLY_TEXT, generator(), CPU)
    assert alone.geometry.columns == 0 and alone.learn_BN.all()


def test_picture_and_sound_share_their_level_half_of_the_time() -> None:
    q = ask(make_batch(0, B=2000, T=1), ONLY_TEXT, generator(), CPU)
    same = q.t_BN[:, 0] == q.t_BN[:, q.geometry.audio.start]
    assert same.float().mean() == pytest.approx(0.5, abs=0.04)
    q = ask(make_batch(0, B=2000, T=1), replace(ONLY_TEXT, untold=0.1), generator(), CPU)
    assert q.untold_B.float().mean() == pytest.approx(0.1, abs=0.02)


def test_the_error_is_that_of_the_velocity() -> None:
    q = ask(make_batch(0), ONLY_TEXT, generator(), CPU)
    assert (error(q.x0_BND, q) == 0).all()
    answer = q.x0_BND + 0.1 * q.geometry.channel_mask()
    wrong = error(answer, q)
    torch.testing.assert_close(wrong, 0.01 / q.t_BN.clamp(min=0.2) ** 2)
    noise = (q.x_BND - (1 - q.t_BN[..., None]) * q.x0_BND) / q.t_BN[..., None]
    velocity = ((q.x_BND - answer) / q.t_BN[..., None] - (noise - q.x0_BND)).square()
    high = (q.t_BN > 0.2) & (torch.arange(q.geometry.n) < q.geometry.n_video)
    torch.testing.assert_close(wrong[high], velocity.mean(-1)[high], rtol=1e-3, atol=1e-6)
    assert mean_error(wrong, q, slice(0, 0)) == 0
    torch.testing.assert_close(mean_error(wrong, q, q.geometry.video), wrong[:, q.geometry.video].mean())


# --- plan, clock, optimizers ----------------------------------------------------------------------------------------


def test_the_rate_warms_up_stays_and_falls_to_zero() -> None:
    plan = Plan(steps=100, warmup=10, decay=0.3)
    rates = [plan.rate(step, 0.0) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert set(rates[10:70]) == {1.0} and rates[85] == pytest.approx(0.5) and rates[100] == 0
    hours = Plan(hours=2, warmup=0, decay=0.5)
    assert hours.rate(10**6, 3600) == 1 and hours.rate(0, 5400) == pytest.approx(0.5) and hours.spent(0, 7200) == 1


def test_impossible_plans_are_named() -> None:
    with pytest.raises(ValueError, match="either steps or hours"):
        Plan()
    with pytest.raises(ValueError, match="0"):
        Plan(hours=0.0)
    with pytest.raises(ValueError, match="video is 2"):
        Tasks(video=2)


def test_a_pause_of_the_machine_is_not_training() -> None:
    clock = Clock(100.0)
    for _ in range(10):
        clock.add(1.0)
    assert clock.add(500.0) == 3.0 and clock.seconds == 113.0


def test_values_fall_into_their_buckets() -> None:
    edges = (0.0, 0.5, 1.0)
    assert [bucket(v, edges) for v in (0.0, 0.49, 0.5, 1.0)] == [0, 0, 1, 1]


def test_muon_gets_the_matrices_of_all_blocks_and_nothing_else() -> None:
    model = Generator(SMALL, TEXT)
    matrices, rest = split_parameters(model)
    assert sum(p.numel() for p in matrices) == 12 * 64**2 * 2 + 12 * 32**2 + (10 + 4 + 4 + 18) * 16**2
    assert len(matrices) + len(rest) == len(list(model.parameters()))
    assert all(p.ndim == 2 for p in matrices)


def test_the_average_lags_and_is_lent_without_harm() -> None:
    model = nn.Linear(3, 3)
    average = Average(model, 0.9)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1
    for _ in range(200):
        average.update()
    torch.testing.assert_close(average.weights["weight"], start + 1)
    with torch.no_grad():
        model.weight += 1
    average.update()
    with average.applied():
        torch.testing.assert_close(model.weight.detach(), start + 1.1)
        assert not model.training
    torch.testing.assert_close(model.weight.detach(), start + 2)
    assert model.training


# --- the loop -------------------------------------------------------------------------------------------------------


def test_resume_is_exact(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", settings(6))

    def breaks_off(n: int) -> Iterator[Batch]:
        for i, batch in zip(range(6), endless(n), strict=False):
            if i == 5:
                raise OSError("power cut")  # in the middle of the third step
            yield batch

    with pytest.raises(OSError, match="power cut"):
        train(tmp_path / "parts", settings(6), breaks_off)
    assert checkpoint.load_state(tmp_path / "parts" / (KIND + STATE))["step"] == 2
    parts = train(tmp_path / "parts", settings(6))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)
    a, b = (checkpoint.load_state(tmp_path / name / (KIND + STATE))["weights"] for name in ("whole", "parts"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_longer_plan_goes_on_from_before_the_decay(tmp_path: Path) -> None:
    short = train(tmp_path / "sittings", settings(4))
    assert checkpoint.load_state(tmp_path / "sittings" / (KIND + PREDECAY))["step"] == 2
    extended = train(tmp_path / "sittings", settings(8))
    straight = train(tmp_path / "straight", settings(8))
    assert all(torch.equal(extended[k], straight[k]) for k in straight)
    assert any(not torch.equal(extended[k], short[k]) for k in straight)
    assert checkpoint.load_state(tmp_path / "sittings" / (KIND + PREDECAY))["step"] == 4

    def never(n: int) -> Iterator[Batch]:
        raise AssertionError("a training that is done asks for no data")

    again = train(tmp_path / "sittings", settings(8), never)
    assert all(torch.equal(again[k], straight[k]) for k in straight)


def test_a_second_stage_begins_with_the_weights_of_the_first_and_leaves_alone_what_is_frozen(tmp_path: Path) -> None:
    first = train(tmp_path, settings(4))
    frozen = ("denoiser.detailer.", "text.")
    later = settings(3, stage="later", after=KIND, frozen=frozen)
    second = train(tmp_path, later)
    still = [name for name in first if torch.equal(first[name], second[name])]
    assert set(still) >= {name for name in first if name.startswith(frozen)}
    assert any(not torch.equal(first[name], second[name]) for name in first if "denoiser.blocks" in name)
    assert checkpoint.load(tmp_path / "denoiser.safetensors").config["trained"]["steps"] == 7

    def never(n: int) -> Iterator[Batch]:
        raise AssertionError("a stage that is done asks for no data")

    assert train(tmp_path, later, never).keys() == second.keys()
    third = train(tmp_path, settings(2, stage="last", after="later", learns=("denoiser.blocks.1.",)))
    moved = {name for name in first if not torch.equal(second[name], third[name])}
    assert moved and all(name.startswith("denoiser.blocks.1.") for name in moved)
    with pytest.raises(InputError, match="missing"):
        train(tmp_path / "elsewhere", later)


def test_a_stage_begins_anew_where_the_one_before_went_on(tmp_path: Path) -> None:
    later = settings(2, stage="later", after=KIND, frozen=("denoiser.detailer.",))
    train(tmp_path, settings(2))
    before = train(tmp_path, later)
    longer = train(tmp_path, settings(6))
    after = train(tmp_path, later)
    frozen = [name for name in longer if name.startswith("denoiser.detailer.")]
    assert all(torch.equal(after[name], longer[name]) for name in frozen)
    assert any(not torch.equal(after[name], before[name]) for name in frozen)
    assert checkpoint.load(tmp_path / "denoiser.safetensors").config["trained"]["steps"] == 8


@pytest.mark.parametrize("kept", [False, True])
def test_sound_is_kept_where_the_weights_to_begin_with_teach_it(tmp_path: Path, kept: bool) -> None:
    train(tmp_path / "before", settings(8))
    start = str(tmp_path / "before" / "denoiser.safetensors")
    config = settings(4, start=start, keep_sound=kept, log_steps=1, tasks=ONLY_TEXT, truth_weight=0.0)
    train(tmp_path / "after", config, lambda n: endless(n + 1000))
    lines = [json.loads(line) for line in (tmp_path / "after" / "denoiser.jsonl").read_text().splitlines()]
    # what teaches is what begins: nothing is wrong with the sound at first, and much with the picture
    assert (lines[0]["audio"] < 1e-9) == kept
    assert lines[0]["video"] > 0.1
    assert (lines[-1]["audio"] < 0.1) == kept


def test_there_is_no_sound_to_keep_without_weights_to_begin_with(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="start is None"):
        train(tmp_path, settings(2, keep_sound=True))


def test_another_model_in_the_folder_is_refused(tmp_path: Path) -> None:
    train(tmp_path, settings(1))
    with pytest.raises(CheckpointError, match="another model"):
        train(tmp_path, settings(2, denoiser=replace(SMALL, blocks=1)))


def test_curves_sheets_and_weights_are_left_behind(tmp_path: Path) -> None:
    shown: list[int] = []

    def sheet(step: int, model: Generator) -> None:
        assert not model.training and not torch.is_grad_enabled()
        shown.append(step)

    train(tmp_path, settings(4, sheet_seconds=1e9), sheet=sheet)
    assert shown == [4]
    lines = [json.loads(line) for line in (tmp_path / "denoiser.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert lines[0]["tokens_per_second"] > 0 and 0 < lines[0]["flops_share"] < 1.5
    assert any(name.startswith("video/t") for name in lines[0])
    stored = checkpoint.load(tmp_path / "denoiser.safetensors", kind="denoiser")
    model = Generator(DenoiserConfig(**stored.config["denoiser"]), TextEncoderConfig(**stored.config["text"]))
    model.load_state_dict(stored.tensors)


def test_it_learns_four_clips_by_heart(tmp_path: Path) -> None:
    """Noise as data: nothing but memory, reached by way of the captions, can lower the error at high noise."""
    clips = make_batch(3, T=2)

    def same(n: int) -> Iterator[Batch]:
        while True:
            yield clips

    wide = replace(SMALL, detail=64)
    config = settings(300, denoiser=wide, tasks=ONLY_TEXT, accumulate=1, save_seconds=1e9, average=0.9)
    config = replace(config, plan=Plan(steps=300, warmup=10, decay=0.5))
    weights = train(tmp_path, config, same)
    model = Generator(wide, TEXT, torch.float32).eval()
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    g = Geometry(2, 2, 2, 4)
    t_BN = torch.full((4, g.n), 0.9)
    q = ask(clips, ONLY_TEXT, generator(9), CPU)
    noise = torch.randn(q.x0_BND.shape, generator=generator(5)) * g.channel_mask()
    x_BND = 0.1 * q.x0_BND + 0.9 * noise
    with torch.no_grad():
        answer = model(replace(q, x_BND=x_BND, t_BN=t_BN), *Letters().encode(clips["captions"]))[0]
        lost = model(replace(q, x_BND=x_BND, t_BN=t_BN), *Letters().encode([clips["captions"][0]] * 4))[0]
    wrong = (answer - q.x0_BND).square().mean() / q.x0_BND.square().mean()
    assert wrong < 0.03, wrong
    assert (lost - q.x0_BND)[1:].square().mean() > (answer - q.x0_BND)[1:].square().mean()


def test_weights_are_not_saved_behind_a_loss_that_was_not_finite(tmp_path: Path) -> None:
    config = DenoiserTraining(Plan(steps=1), denoiser=SMALL, compile=False)
    run = _Run(tmp_path, config, Letters(), TEXT, None, CPU)
    run.save()
    before = (tmp_path / "denoiser.safetensors").read_bytes()
    run.finite &= torch.tensor(False)
    with pytest.raises(PhonofilmError, match="not finite"):
        run.save()
    assert (tmp_path / "denoiser.safetensors").read_bytes() == before
