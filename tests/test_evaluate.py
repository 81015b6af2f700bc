"""The ear, the lags, and the report."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tiny import make_weights

from phonofilm import checkpoint
from phonofilm.clip import Audio, Clip
from phonofilm.codec.codec import AUDIO_FILE, AUDIO_KIND, VIDEO_FILE, VIDEO_KIND, Codec
from phonofilm.engines import NativeEngine
from phonofilm.engines.making import Defaults
from phonofilm.errors import InputError
from phonofilm.evaluate import hearing, sync
from phonofilm.evaluate.report import wilson
from phonofilm.evaluate.run import Generator, cases, codec_hash, evaluate, evaluate_engine
from phonofilm.evaluate.score import judge
from phonofilm.playhouse import speech
from phonofilm.playhouse.playhouse import Take, film
from phonofilm.playhouse.scene import Actor, Scene
from phonofilm.playhouse.sound import synthesize
from phonofilm.playhouse.stage import perform

RATE = 16_000
BOUNCE = Scene((Actor("ball", "bounce", "red", "medium", "wood", count=3),), "stone", "day", seed=21)
SPEAK = Scene((Actor("woman", "say", "blue", "medium", word="window"),), "wooden", "night", seed=22)


@pytest.fixture(scope="module")
def clips() -> dict[str, Clip]:
    take = film([BOUNCE, SPEAK], captions=["", ""])
    pairs = zip(("bounce", "speak"), take.frames.numpy(), take.audio.numpy(), strict=True)
    return {name: Clip(f, 16.0, Audio(a[None], RATE)) for name, f, a in pairs}


def _late(clip: Clip, seconds: float) -> Clip:
    """The same clip with its sound moved."""
    assert clip.audio is not None
    samples = np.roll(clip.audio.samples, round(seconds * RATE), axis=1)
    return replace(clip, audio=Audio(samples, RATE))


def test_a_true_clip_is_right(clips):
    for name, scene in (("bounce", BOUNCE), ("speak", SPEAK)):
        verdict = judge(clips[name], scene)
        assert verdict.wrong == []


@pytest.mark.parametrize("seconds", [-0.03, 0.08])
def test_impacts_that_sound_late_lag(clips, seconds):
    lags = [lag for _, lag in judge(_late(clips["bounce"], seconds), BOUNCE).blow_lags]
    assert len(lags) == 3
    assert np.median(lags) == pytest.approx(1000 * seconds, abs=6)


@pytest.mark.parametrize("seconds", [-0.05, 0.0, 0.1])
def test_lips_that_move_early_lag(clips, seconds):
    (lag,) = judge(_late(clips["speak"], seconds), SPEAK).lip_lags
    assert lag == pytest.approx(1000 * seconds, abs=25)


def test_another_wish_is_wrong(clips):
    other = Scene((Actor("bell", "ring", "green", "small", count=1),), "grass", "sunset")
    verdict = judge(clips["bounce"], other)
    wrong = {row for row, _, right in verdict.rows if not right}
    assert {"actor", "colour", "size", "way", "count", "sound", "place"} <= wrong


def test_who_is_left_and_who_is_right_is_seen():
    pair = (Actor("drum", "strike", "red", count=1), Actor("bell", "ring", "blue", count=1))
    scene = Scene(pair, "stone", "day", seed=3)
    take = film([scene], captions=[""])
    clip = Clip(take.frames[0].numpy(), 16.0, Audio(take.audio[0].numpy()[None], RATE))
    for turned, right in ((clip, True), (replace(clip, frames=np.ascontiguousarray(clip.frames[:, :, ::-1])), False)):
        verdict = judge(turned, scene)
        assert [r for row, _, r in verdict.rows if row == "side"] == [right]
        assert ("actor", "drum", True) in verdict.rows and ("actor", "bell", True) in verdict.rows


def test_only_claims_count(clips):
    rows = {row for row, _, _ in judge(clips["bounce"], BOUNCE, {"0.kind", "0.act", "0.colour"}).rows}
    assert "colour" in rows and not rows & {"size", "count", "place", "camera"}


def test_silence_is_heard_as_nothing(clips):
    silent = replace(clips["bounce"], audio=Audio(np.zeros((1, 48_000), np.float32), RATE))
    verdict = judge(silent, BOUNCE)
    assert ("heard", "ball", False) in verdict.rows
    assert all(np.isnan(lag) for _, lag in verdict.blow_lags)
    assert sync.lag_summary([lag for _, lag in verdict.blow_lags])["within_bt1359"] == 0


def test_onsets_are_timed_to_two_milliseconds():
    scene = Scene((Actor("drum", "strike", "red", "large", count=3),), seed=5)
    play = perform(scene)
    onsets = hearing.find_onsets(synthesize([play])[0].numpy())
    assert onsets.times == pytest.approx([e.time for e in play.events], abs=0.002)


@pytest.mark.parametrize("word", ["hello", "music", "elephant", "no"])
def test_words_are_recognised_in_noise(word):
    said = speech.say(word, "man", 0.5, 1.0)
    sound = np.random.default_rng(1).normal(0, 0.004, 40_000).astype(np.float32)
    sound[9000 : 9000 + len(said)] += said
    spoken = hearing.find_word(sound)
    assert (spoken.word, spoken.voice) == (word, "man")
    assert spoken.start == pytest.approx(9000 / RATE, abs=0.02)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_chirps_are_counted(count):
    play = perform(Scene((Actor("bird", "fly", "red", "small", None, "left", "fast", count),), seed=30 + count))
    assert hearing.count_chirps(synthesize([play])[0].numpy()) == count


def test_bias_is_the_median():
    assert sync.estimate_bias({"ring": [1.0, 9.0, 2.0, float("nan")], "fall": []}) == {"ring": 2.0}


def test_wilson_interval():
    """Against the closed form worked by hand for 8 of 10 (Wilson 1927)."""
    low, high = wilson(8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=2e-4)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(500, 500)[0] > 0.99


def test_report_holds_three_columns(tmp_path):
    """A generator that plays the truth is as right as the truth; one that swaps clips is not."""
    made: list[list[str]] = []

    def copy(prompts: list[str], seeds: list[int], seconds: float, size: tuple[int, int]) -> list[Clip]:
        made.append(prompts)
        own = {c.prompt: c for c in cases(2, ("train_like",), seconds)}
        take = film([own[p].scene for p in prompts], size, captions=prompts)
        return [
            Clip(f, 16.0, Audio(a[None], RATE)) for f, a in zip(take.frames.numpy(), take.audio.numpy(), strict=True)
        ]

    results = evaluate(2, tmp_path, ("train_like",), copy, seconds=2.0)
    columns = results["splits"]["train_like"]
    assert columns["truth"]["rows"] == columns["generated"]["rows"]
    assert made and results["about"]["prompts"] == 2
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))
    page = (tmp_path / "index.html").read_text()
    assert page.count("<figure>") == 4
    assert "| actor right |" in (tmp_path / "results.md").read_text()
    sheets = sorted(p.name for p in tmp_path.glob("*.png"))
    assert sheets == [f"train_like-00{k}-{c}.png" for k in (0, 1) for c in ("generated", "truth")]


def test_work_that_is_shared_gives_the_same(tmp_path):
    engine = NativeEngine(make_weights(tmp_path / "weights"), device="cpu")
    done = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        evaluate_engine(engine, 1, out, seconds=2.0, workers=workers, progress=lambda *p: done.append(p), steps=1)
    alone, shared = ((tmp_path / name / "results.json").read_text() for name in ("1", "2"))
    assert json.loads(alone).keys() == json.loads(shared).keys()
    alone, shared = json.loads(alone)["splits"], json.loads(shared)["splits"]
    for split, columns in alone.items():
        assert columns["truth"]["rows"] == shared[split]["truth"]["rows"]  # what networks make differs by rounding
    assert done == [(1, 3), (2, 3), (3, 3)] * 2
    assert len(list((tmp_path / "2").glob("*.png"))) == len(list((tmp_path / "1").glob("*.png"))) > 0


def test_those_who_share_the_work_sample_as_the_engine_does(tmp_path, monkeypatch):
    engine = NativeEngine(make_weights(tmp_path), defaults=Defaults(steps=3, boards=5))
    found = []
    monkeypatch.setattr("phonofilm.evaluate.run.evaluate", lambda *_, players, **__: found.append(players()) or {})
    monkeypatch.setattr("phonofilm.evaluate.report.markdown", lambda results: "")
    evaluate_engine(engine, 1, workers=2)
    ((generator, _),) = found
    assert generator.args[0] is not engine and generator.args[0].defaults == engine.defaults


def test_impossible_wishes():
    with pytest.raises(InputError, match="prompts"):
        evaluate(0)
    with pytest.raises(ValueError, match="no_such"):
        evaluate(1, splits=("no_such",))


def test_an_evaluation_goes_on_where_it_was_cut_off(tmp_path):
    """The clips that are kept are not made again, a line that was cut is; other settings are not mixed in."""
    made: list[int] = []

    def black(prompts: list[str], seeds: list[int], seconds: float, size: tuple[int, int]) -> list[Clip]:
        made.extend(seeds)
        silence = Audio(np.zeros((1, 32000), np.float32), RATE)
        return [Clip(np.zeros((32, size[1], size[0], 3), np.uint8), 16.0, silence) for _ in prompts]

    splits = ("train_like", "held_out_wordings")
    whole = evaluate(2, tmp_path, splits, black, seconds=2.0, about={"weights": "a"})
    assert sorted(made) == [0, 0, 1, 1]
    kept = (tmp_path / "clips.jsonl").read_text().splitlines(keepends=True)
    assert [json.loads(line).get("split") for line in kept[1::2]] == list(splits)  # they take turns
    (tmp_path / "clips.jsonl").write_text("".join(kept[:4]) + kept[4][:100])
    made.clear()
    done: list[tuple[int, int]] = []
    again = evaluate(
        2, tmp_path, splits, black, seconds=2.0, about={"weights": "a"}, progress=lambda *p: done.append(p)
    )
    assert made == [1]
    assert done == [(3, 4), (4, 4)]
    assert (tmp_path / "clips.jsonl").read_text().splitlines(keepends=True) == kept
    assert again["splits"]["train_like"]["generated"]["rows"] == whole["splits"]["train_like"]["generated"]["rows"]
    more = evaluate(3, tmp_path, splits, black, seconds=2.0, about={"weights": "a"})
    assert more["splits"]["train_like"]["generated"]["clips"] == 3
    with pytest.raises(InputError, match="another weights"):
        evaluate(2, tmp_path, splits, black, seconds=2.0, about={"weights": "b"})
    (tmp_path / "clips.jsonl").write_text("hello\n")
    with pytest.raises(InputError, match="not the record"):
        evaluate(2, tmp_path, splits, black, seconds=2.0)


def test_what_does_not_depend_on_the_generator_is_taken_over_from_another_evaluation(tmp_path, monkeypatch):
    def grey(level: int) -> Generator:
        def make(prompts: list[str], seeds: list[int], seconds: float, size: tuple[int, int]) -> list[Clip]:
            silence = Audio(np.zeros((1, 32000), np.float32), RATE)
            return [Clip(np.full((32, size[1], size[0], 3), level, np.uint8), 16.0, silence) for _ in prompts]

        return make

    filmed: list[int] = []

    def counting(scenes: list[Scene], *args: Any, **options: Any) -> Take:
        filmed.append(len(scenes))
        return film(scenes, *args, **options)

    monkeypatch.setattr("phonofilm.evaluate.run.film", counting)
    monkeypatch.setattr("phonofilm.evaluate.run.BATCH", 2)
    monkeypatch.setattr("phonofilm.evaluate.run.SHEETS", 1)
    split, one = ("train_like",), {"codec": "one"}
    evaluate(3, tmp_path / "first", split, grey(0), seconds=2.0, about=one | {"weights": "a"})
    assert filmed == [2, 1]
    lines = (tmp_path / "first" / "clips.jsonl").read_text().splitlines()
    entry = json.loads(lines[-1])
    entry["verdicts"]["truth"]["rows"] = [["actor", "box", False]]  # so that it is seen where truth comes from
    (tmp_path / "first" / "clips.jsonl").write_text("\n".join([*lines[:-1], json.dumps(entry)]) + "\n")
    filmed.clear()
    about = one | {"weights": "b"}
    evaluate(3, tmp_path / "second", split, grey(90), seconds=2.0, about=about, reuse=tmp_path / "first")
    assert filmed == [2]  # the first one is shown
    found = [json.loads(line) for line in (tmp_path / "second" / "clips.jsonl").read_text().splitlines()[1:]]
    assert [e["seed"] for e in found] == [0, 1, 2]
    assert found[2]["verdicts"]["truth"] == entry["verdicts"]["truth"]
    assert found[1]["verdicts"]["truth"]["rows"] != entry["verdicts"]["truth"]["rows"]
    assert all(e["verdicts"]["generated"]["rows"] for e in found)
    for seconds, codec in ((2.5, "one"), (2.0, "other")):
        with pytest.raises(InputError, match=r"cannot be reused.*another (seconds|codec)"):
            evaluate(3, None, split, grey(0), seconds=seconds, about={"codec": codec}, reuse=tmp_path / "first")


def test_another_decoder_is_another_codec(tmp_path) -> None:
    """Latents stay valid when a decoder goes on, the codec's column does not."""
    weights = make_weights(tmp_path)
    before, latents = codec_hash(weights), Codec.load(weights).hash
    assert codec_hash(weights) == before
    for file, kind in ((VIDEO_FILE, VIDEO_KIND), (AUDIO_FILE, AUDIO_KIND)):
        stored = checkpoint.load(weights / file, kind=kind)
        name = next(name for name in stored.tensors if name.startswith("decoder."))
        changed = {**stored.tensors, name: stored.tensors[name] + 1}
        checkpoint.save(weights / file, changed, kind=kind, config=stored.config, storage="bf16")
        assert codec_hash(weights) != before and Codec.load(weights).hash == latents
        before = codec_hash(weights)


def test_a_clip_that_cannot_be_judged_is_counted_and_the_others_go_on(tmp_path):
    def short(prompts: list[str], seeds: list[int], seconds: float, size: tuple[int, int]) -> list[Clip]:
        frames = [4 if seed == 1 else 32 for seed in seeds]  # fewer than the parser needs
        return [Clip(np.zeros((n, size[1], size[0], 3), np.uint8), 16.0, None) for n in frames]

    results = evaluate(3, tmp_path, ("train_like",), short, seconds=2.0)
    (failed,) = results["about"]["failed"]
    assert failed.startswith("train_like, seed 1: ValueError")
    assert results["splits"]["train_like"]["generated"]["clips"] == 2
    assert "counted nowhere" in (tmp_path / "results.md").read_text()
    assert evaluate(3, tmp_path, ("train_like",), short, seconds=2.0)["about"]["failed"] == [failed]
