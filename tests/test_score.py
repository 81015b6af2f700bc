"""Sound for silent films: exact lengths, an untouched picture, seams that nobody hears, clear errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tiny import make_weights

import phonofilm
from phonofilm import Audio, Clip, Request, media
from phonofilm.cli import main
from phonofilm.engines import CATALOGUE, Chunk, Hooks, NativeEngine, load
from phonofilm.engines.fake import FakeEngine
from phonofilm.engines.open.families import family_of
from phonofilm.engines.open.fill import FILLS, Given
from phonofilm.engines.scoring import EDGE, OVERLAP, composer, crossfade, cuts, joined, scored, wish
from phonofilm.errors import Cancelled, InputError
from phonofilm.provenance import verify

RATE = 16_000


def film(seconds: float, fps: float = 24.0, size: tuple[int, int] = (70, 50)) -> Clip:
    """A square that moves over a shaded ground, silent."""
    count, (width, height) = round(seconds * fps), size
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:] = np.linspace(20, 120, height)[:, None, None]
    for k, frame in enumerate(frames):
        frame[10:30, k % (width - 20) : k % (width - 20) + 20] = 220
    return Clip(frames, fps)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("seconds", [1.0, 2.0, 2.13, 4.0, 4.3, 9.0])
def test_the_sound_is_as_long_as_the_picture_which_stays(seconds: float) -> None:
    clip = film(seconds, 29.97)
    made, receipt = scored(clip, wish(clip, "rain", model="fake"), load("fake"))
    assert made.frames is clip.frames and made.fps == clip.fps
    assert made.audio is not None
    assert abs(made.audio.samples.shape[1] - clip.seconds * made.audio.sample_rate) <= 1
    loud = np.abs(made.audio.samples[0]).reshape(-1)[: -round(EDGE * RATE)]
    assert np.lib.stride_tricks.sliding_window_view(loud, 400).max(1).min() > 0.1  # no hole anywhere
    assert receipt.request["seconds"] == pytest.approx(clip.seconds) and receipt.total_seconds > 0


@pytest.mark.parametrize("frames", [1, 16, 32, 64, 65, 68, 127, 144, 1000, 4801])
def test_pieces_cover_the_film_overlap_and_are_such_as_the_engine_makes(frames: int) -> None:
    able = CATALOGUE["native"]
    length, starts = cuts(frames, able)
    seconds = length / able.fps
    assert able.seconds[0] <= seconds <= able.seconds[1] and seconds % able.seconds_step == 0
    assert starts[0] == 0 and starts[-1] + length >= frames
    shared = [a + length - b for a, b in pairwise(starts)]
    assert all(OVERLAP * able.fps - 1 <= n < length for n in shared)
    assert len(starts) == 1 or starts[-1] + length == frames


def steps_near(samples: np.ndarray, at: int, reach: int) -> tuple[float, float]:
    """The largest jump from a sample to the next within `reach` of a place, and elsewhere."""
    jumps = np.abs(np.diff(samples))
    near = np.zeros(len(jumps), bool)
    near[max(0, at - reach) : at + reach] = True
    return float(jumps[near].max()), float(jumps[~near].max())


def test_seams_have_no_click_and_no_dip(weights: Path) -> None:
    for engine in (load("fake"), NativeEngine(weights)):
        clip = film(6.0, 16.0)
        made, _ = scored(clip, wish(clip, "a red ball bounces", steps=1), engine)
        assert made.audio is not None
        samples = made.audio.samples[0]
        length, starts = cuts(96, engine.capabilities)
        for edge in (starts[1] * 1000, length * 1000):  # where the fade begins and where it ends
            near, elsewhere = steps_near(samples, edge, 100)
            assert near <= 1.1 * elsewhere
        loud = np.sqrt(np.square(samples).reshape(-1, 800).mean(1))  # each 50 ms
        inside = loud[starts[1] * 1000 // 800 : length * 1000 // 800]
        assert 0.6 * loud.min() <= inside.min() and inside.max() <= 1.5 * loud.max()


@pytest.mark.parametrize("phase", [0.0, 0.7, np.pi / 2, 2.0, np.pi])
def test_two_tones_fade_at_one_level_whatever_their_phase(phase: float) -> None:
    clock = np.arange(RATE) / RATE
    old, new = (0.3 * np.sin(2 * np.pi * 440 * clock + p)[None].astype(np.float32) for p in (0.0, phase))
    made = joined([(0, Audio(old, RATE)), (RATE // 2, Audio(np.roll(new, -RATE // 2, 1), RATE))])
    assert made.samples.shape == (1, RATE + RATE // 2)
    peaks = np.abs(made.samples[0]).reshape(-1, 400).max(1)
    assert 0.28 < peaks.min() and peaks.max() < 0.32
    assert np.abs(np.diff(made.samples[0])).max() <= 1.1 * np.abs(np.diff(old[0])).max()


def test_a_crossfade_of_unlike_sounds_keeps_the_power_and_of_equal_ones_the_samples() -> None:
    draw = np.random.default_rng(0)
    old, new = (0.1 * draw.standard_normal((2, 40_000)).astype(np.float32) for _ in range(2))
    power = np.square(crossfade(old, new)).reshape(2, 40, 1000).mean((0, 2))
    np.testing.assert_allclose(power, 0.01, rtol=0.15)
    np.testing.assert_allclose(crossfade(old, old), old, atol=1e-6)
    assert not crossfade(np.zeros((1, 50), np.float32), np.zeros((1, 50), np.float32)).any()


def test_the_same_seed_makes_the_same_sound(weights: Path) -> None:
    clip, engine = film(1.0), NativeEngine(weights)
    one, again, other = (
        scored(clip, wish(clip, "a red ball bounces", steps=1, seed=seed), engine)[0].audio for seed in (5, 5, 6)
    )
    assert one is not None and again is not None and other is not None
    assert one.samples.tobytes() == again.samples.tobytes() != other.samples.tobytes()


def test_the_engine_is_given_the_film_and_its_sound_is_replaced(weights: Path) -> None:
    engine, hooks = NativeEngine(weights), Hooks()
    clip = film(2.0, 16.0, (128, 128))
    loud = replace(clip, audio=Audio(np.full((2, 64_000), 0.5, np.float32), 32_000))
    made, _ = scored(loud, wish(loud, "a red ball bounces", steps=1), engine, hooks)
    same = engine.make(Request("a red ball bounces", steps=1, seconds=2.0), {"video": clip})
    assert made.audio is not None and same.audio is not None
    np.testing.assert_array_equal(made.audio.samples, same.audio.samples)
    assert any("replaced" in note for note in hooks.notes)


def test_it_tells_how_far_it_is_and_can_be_stopped() -> None:
    clip, seen = film(9.0, 12.0), []
    hooks = Hooks(progress=lambda p: seen.append((p.done, p.total)), cancelled=lambda: len(seen) > 6)
    with pytest.raises(Cancelled):
        scored(clip, wish(clip, "rain"), load("fake"), hooks)
    assert seen == sorted(seen) and {total for _, total in seen} == {4 * 3} and seen[4][0] == 5


def test_from_python_and_what_is_no_film() -> None:
    clip = film(1.0)
    made = phonofilm.score(clip, "rain", model="fake", seed=3)
    assert made.audio is not None and made.frames is clip.frames
    with pytest.raises(InputError, match="single picture"):
        phonofilm.score(Clip(clip.frames[:1], 16.0), "rain", model="fake")
    with pytest.raises(InputError, match="model must be one of"):
        composer("nobody")


def test_the_command_writes_a_signed_film_a_sheet_and_a_receipt(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, clip = tmp_path / "silent.mp4", film(1.0, 25.0, (72, 50))
    media.write(clip, source)
    shown = media.read(source)
    options = ["--weights", str(weights), "--steps", "1", "--seed", "4", "--receipt", "--sheet"]
    assert main(["score", str(source), "a red ball bounces", *options]) == 0
    target = tmp_path / "silent.scored.mp4"
    assert str(target) in capsys.readouterr().out
    made = media.read(target)
    assert (made.width, made.height, made.fps, len(made.frames)) == (72, 50, 25.0, 25)
    assert np.abs(made.frames.astype(int) - shown.frames).mean() < 2  # coded once more
    assert made.audio is not None and made.audio.seconds == pytest.approx(1.0, abs=0.03)
    told = json.loads(target.with_suffix(".receipt.json").read_text())["request"]
    assert told["prompt"] == "a red ball bounces" and told["seed"] == 4 and told["fps"] == 25
    assert told["conditions"] == [{"role": "video", "path": str(source), "digest": None, "strength": 1.0}]
    assert verify(target).status == "signed" and target.with_suffix(".sheet.png").stat().st_size > 1000


class Silent(FakeEngine):
    """The fake engine without its sound."""

    def generate(self, request: Request, hooks: Hooks | None = None) -> Iterator[Chunk]:
        return (replace(chunk, samples=None) for chunk in super().generate(replace(request, model="fake"), hooks))


@pytest.fixture
def silent_model(tmp_path: Path) -> Path:
    """What is known of a silent model before anything is loaded."""
    folder = tmp_path / "wan"
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    return folder


def test_a_silent_models_film_gets_a_sound_in_a_second_pass(
    silent_model: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_silent(name: str, *given: object, **options: object) -> object:
        return Silent() if name == str(silent_model) else load(name, *given)  # type: ignore[arg-type]

    monkeypatch.setattr("phonofilm.engines.load", load_silent)
    target = tmp_path / "film.mp4"
    options = ["--weights", str(weights), "--seconds", "2", "--no-sign", "--receipt"]
    assert main(["generate", "a fox", "--model", str(silent_model), "--score", *options, "-o", str(target)]) == 0
    made = media.read(target)
    assert made.audio is not None and made.audio.seconds == pytest.approx(made.seconds, abs=0.05)
    told = json.loads(target.with_suffix(".receipt.json").read_text())
    assert told["seconds"]["score"] > 0 and told["versions"]["score"].startswith("native, weights ")


def test_an_open_model_with_sound_is_given_the_whole_film(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "Cosmos3OmniPipeline"}))
    able = composer(str(tmp_path))
    length, starts = cuts(round(20 * able.fps), able)
    assert length / able.fps <= able.seconds[1] and starts[-1] + length == 20 * able.fps and len(starts) == 3
    call: dict[str, Any] = {}
    family = family_of("Cosmos3OmniPipeline")
    assert family is not None
    form = next(way.roles["video"] for way in family.ways if "video" in way.roles)
    FILLS[form](call, Given({"video": film(0.5, 24.0)}, {}, 13), "video", ModuleType("none"))
    assert call["condition_frame_indexes_vision"] == [0, 1, 2, 3] and len(call["video"]) == 12


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["score", "missing.mp4", "rain"], "missing.mp4"),
        (["score", "still.png", "rain"], "single picture"),
        (["score", "sound.wav", "rain"], "sound alone"),
        (["score", "film.mp4", " "], "prompt"),
        (["score", "film.mp4", "rain", "-o", "film.mp4"], "the film itself"),
        (["score", "film.mp4", "rain", "-o", "film.gif"], ".mp4, .webm, .wav"),
        (["score", "film.mp4", "rain", "--steps", "0"], "steps"),
        (["score", "film.mp4", "rain", "--model", "nobody"], "model must be one of"),
        (["score", "film.mp4", "rain", "--model", "WAN"], "makes no sound; models that make sound for a film: native"),
        (["generate", "rain", "--score"], "its own sound"),
        (["generate", "rain", "--score", "-o", "film.gif"], ".mp4, .webm, .wav"),
        (["generate", "rain", "--model", "WAN", "--score", "--picture"], "single picture"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    told: str,
    silent_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    tone = Audio(np.full((1, 1600), 0.1, np.float32), RATE)
    media.write(film(0.5, 16.0), "film.mp4")
    media.write(Clip(film(0.1).frames[:1], 16.0), "still.png")
    media.write(Clip(film(0.1).frames, 24.0, tone), "sound.wav")
    before = sorted(tmp_path.iterdir())
    assert main([str(silent_model) if a == "WAN" else a for a in arguments]) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("phonofilm: ") and told in line and "\n" not in line
    assert sorted(tmp_path.iterdir()) == before
