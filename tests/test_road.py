"""The whole road in small: codec, text, denoiser and a film, by the commands of users; and on a folder of clips."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_weights

from phonofilm import Audio, Clip, Request, checkpoint, media
from phonofilm.cli import main
from phonofilm.codec.codec import Codec
from phonofilm.data.cache import LatentCache
from phonofilm.engines import NativeEngine, join
from phonofilm.engines.making import Defaults
from phonofilm.engines.native import SAMPLING_FILE
from phonofilm.errors import InputError
from phonofilm.evaluate.run import codec_hash
from phonofilm.latents import TOKEN_WIDTH, Geometry, Latents, patchify
from phonofilm.model.denoiser import Denoiser
from phonofilm.train.denoiser import PAINTER, WEIGHTS
from phonofilm.train.footage import CANDIDATES, Footage, demand, film_playhouse
from phonofilm.train.painted import load_denoiser, painting_error
from phonofilm.train.road import MORE, train


def test_smoke_preset_goes_the_whole_road_and_resumes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    for what in ("codec", "text", "denoiser"):
        assert main(["train", what, "--preset", "smoke", "--out", str(out)]) == 0
    weights = checkpoint.load(out / "denoiser.safetensors", kind="denoiser")
    assert weights.config["trained"]["steps"] == 8
    assert main(["train", "denoiser", "--preset", "smoke", "--out", str(out)]) == 0  # done: changes nothing
    assert checkpoint.load(out / "denoiser.safetensors").hash == weights.hash
    codec = checkpoint.load(out / "video-codec.safetensors").hash
    assert main(["train", "decoder", "--preset", "smoke", "--out", str(out)]) == 0  # on what the denoiser paints, too
    assert checkpoint.load(out / "video-codec.safetensors").hash != codec
    film = tmp_path / "film.mp4"
    options = ["--weights", str(out), "--seconds", "2", "--steps", "1", "-o", str(film)]
    assert main(["generate", "a red ball bounces", *options]) == 0
    assert media.read(film).seconds == pytest.approx(2, abs=0.05)


def test_parts_of_a_denoiser_go_on_by_themselves_and_leave_the_other_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("phonofilm.train.footage.GROUP", 4)
    monkeypatch.setattr("phonofilm.train.road.UNSEEN", 4)
    monkeypatch.setattr("phonofilm.train.road._sheet", lambda *_: None)
    errors = {True: 0.1, False: 0.2}  # of what has learnt, of what was there before
    asked: list[bool] = []

    def error(denoiser: Denoiser, footage: Footage, *_: object) -> float:
        caches = [LatentCache(folder, Codec.load(out).hash) for folder in out.glob("hard-*/*")]
        learnt = {row["seed"] for b in Footage(caches, 4).buckets for row in b.about}
        assert len(learnt) == len(footage) == 4
        assert not {row["seed"] for b in footage.buckets for row in b.about} & learnt
        asked.append(len(asked) % 2 == 0)
        return errors[asked[-1]]

    monkeypatch.setattr("phonofilm.train.road.painting_error", error)
    start, out = make_weights(tmp_path / "start"), tmp_path / "more"

    def parts() -> dict[bool, dict[str, torch.Tensor]]:
        tensors = checkpoint.load(out / WEIGHTS, kind="denoiser").tensors
        return {p: {n: w for n, w in tensors.items() if n.startswith(PAINTER) == p} for p in (True, False)}

    def differ(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> int:
        return sum(not torch.equal(one[name], two[name]) for name in one)

    before = checkpoint.load(start / WEIGHTS)
    options = ["--preset", "smoke", "--clips", "4", "--start", str(start), "--out", str(out)]
    assert main(["train", "storyboards", *options]) == 0
    first = parts()
    assert differ(first[False], before.tensors) > len(first[False]) // 2
    painted = {name: weight.bfloat16().float() for name, weight in before.tensors.items() if name in first[True]}
    assert not differ(painted, first[True])
    assert main(["train", "picture", *options]) == 0
    assert "error on 4 clips that nothing learnt from: 0.2000 before, 0.1000 now" in capsys.readouterr().err
    second = parts()
    assert differ(second[True], first[True]) > len(first[True]) // 2 and not differ(first[False], second[False])
    done = checkpoint.load(out / WEIGHTS)
    assert done.config["trained"]["steps"] == before.config.get("trained", {}).get("steps", 0) + 4
    spent = [checkpoint.load(out / part / WEIGHTS).config["trained"]["seconds"] for part in MORE]
    before_seconds = before.config.get("trained", {}).get("seconds", 0.0)
    assert done.config["trained"]["seconds"] == pytest.approx(sum(spent) - before_seconds)
    for what in MORE:  # finished: nothing changes, in whatever order they come
        train(what, "smoke", out, start=start, clips=4)
    assert checkpoint.load(out / WEIGHTS).hash == done.hash
    assert len(asked) == 6  # twice by each call since the picture went on
    errors[True] = 0.3
    train("picture", "smoke", out, start=start, clips=4)  # what has learnt paints worse: as it was, then
    third = parts()
    assert not differ(third[True], first[True]) and not differ(third[False], second[False])
    latents, codecs = Codec.load(out).hash, codec_hash(out)
    train("decoder", "smoke", out, start=start)  # of the codecs, too
    assert Codec.load(out).hash == latents and all(
        a != b for a, b in zip(codec_hash(out).split(), codecs.split(), strict=True)
    )
    assert join(NativeEngine(out).generate(Request("a red ball bounces", seconds=2.0)))[0].frames.shape[0] == 32


def test_the_error_of_painting_is_that_of_the_clean_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phonofilm.train.footage.GROUP", 4)
    weights = make_weights(tmp_path / "weights")
    footage = Footage(film_playhouse(weights, tmp_path / "films", 4), 4)
    denoiser, even = load_denoiser(weights / WEIGHTS, "cpu"), torch.ones(TOKEN_WIDTH)
    found = painting_error(denoiser, footage, even, "cpu")
    assert found > 0 and painting_error(denoiser, footage, even, "cpu") == found
    assert painting_error(denoiser, footage, 2 * even, "cpu") == pytest.approx(2 * found)
    z = footage.buckets[0].tensors["video_z"].float()
    monkeypatch.setattr(denoiser, "paint", lambda x, t, g: patchify(z))
    assert painting_error(denoiser, footage, even, "cpu") == 0
    monkeypatch.setattr(denoiser, "paint", lambda x, t, g: 0 * x[:, : g.n_video])
    assert painting_error(denoiser, footage, even, "cpu") == pytest.approx(float(z.square().mean()), rel=1e-4)


def test_parts_go_on_in_no_folder_that_holds_other_things(tmp_path: Path) -> None:
    start, own = make_weights(tmp_path / "start"), make_weights(tmp_path / "own")
    kept = {file.name: file.read_bytes() for file in own.iterdir()}
    with pytest.raises(InputError, match="is there already: name another folder"):
        train("storyboards", "smoke", own, start=start)
    assert {file.name: file.read_bytes() for file in own.iterdir()} == kept
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "start.hash").write_text("of others\n")
    with pytest.raises(InputError, match="went on with other weights"):
        train("picture", "smoke", tmp_path / "more", start=start)
    with pytest.raises(InputError, match="went on with other weights"):
        train("decoder", "smoke", tmp_path / "more", start=start)
    stored = checkpoint.load(start / WEIGHTS)
    bare = {**stored.config, "denoiser": {**stored.config["denoiser"], "storyboard": False}}
    checkpoint.save(start / WEIGHTS, stored.tensors, kind="denoiser", config=bare)
    with pytest.raises(InputError, match="knows no storyboard"):
        train("picture", "smoke", tmp_path / "other", start=start)


def test_steps_need_what_stands_before_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train codec"):
        train("text", "smoke", tmp_path)
    make_weights(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="train text"):
        train("denoiser", "smoke", tmp_path)
    with pytest.raises(InputError, match="playhouse-cpu"):
        train("codec", "huge", tmp_path)


@pytest.mark.parametrize(
    ("what", "option", "value"),
    [("all", "--data", "clips"), ("timer", "--hours", "1"), ("text", "--start", "w"), ("decoder", "--clips", "9")],
)
def test_what_a_step_does_not_know_is_refused(
    what: str, option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", what, option, value, "--preset", "smoke", "--out", str(out)]) == 2
    assert f"train {what} knows no {option[2:]}" in capsys.readouterr().err
    assert not out.exists()


def test_filming_goes_on_where_it_stopped_and_batches_depend_on_the_step_alone(tmp_path: Path) -> None:
    weights = make_weights(tmp_path / "weights")
    assert len(film_playhouse(weights, tmp_path / "films", 16)[0]) == 1
    caches = film_playhouse(weights, tmp_path / "films", 32)
    assert len(caches[0]) == 2
    one, two = Footage(caches, 4), Footage(caches, 4)
    later = next(two(5))
    stream = one(0)
    for _ in range(5):
        next(stream)
    batch = next(stream)
    assert batch["captions"] == later["captions"]
    assert torch.equal(batch["video_z"], later["video_z"])
    heard = Footage(caches, 4, boards=1e-9, sounds=1.0).at(0)
    assert "video_z" not in heard and len(heard["audio_z"]) == len(heard["board"]) == 4 * len(one.at(0)["captions"])


def test_most_sounds_are_of_fresh_scenes_where_there_is_a_codec(tmp_path: Path) -> None:
    weights = make_weights(tmp_path / "weights")
    caches = film_playhouse(weights, tmp_path / "films", 16)
    codec = Codec.load(weights)
    footage = Footage(caches, 2, boards=1e-9, sounds=1.0, codec=codec)
    filmed = {z.numpy().tobytes() for z in footage.buckets[0].tensors["audio_z"].float()}
    batches = [footage.at(step) for step in range(12)]
    fresh = [step for step, b in enumerate(batches) if "first_still" not in b]
    assert 6 <= len(fresh) < 12
    for b in (batches[step] for step in fresh):
        assert len(b["audio_z"]) == len(b["board"]) == len(b["heard"]) == len(b["captions"]) == 8
        assert b["audio_z"].shape[2] == b["heard"].shape[1] == 2 * b["board"].shape[1] and bool(b["has_audio"].all())
        assert not filmed & {z.numpy().tobytes() for z in b["audio_z"]}
        assert b["heard"].any() and b["audio_z"].isfinite().all() and b["so"].any()
    first, again = batches[fresh[0]], footage.at(fresh[0])
    assert torch.equal(again["audio_z"], first["audio_z"]) and again["captions"] == first["captions"]


def test_hard_scenes_are_filmed_where_they_are_wished(tmp_path: Path) -> None:
    weights = make_weights(tmp_path / "weights")
    seeds = {
        hard: [row["seed"] for shard in film_playhouse(weights, tmp_path / f"{hard}", 16, hard=hard)[0]
               for row in shard.metadata]
        for hard in (0.0, 0.5)
    }  # fmt: skip
    assert seeds[0.5][8:] == seeds[0.0][8:] and not set(seeds[0.5][:8]) & set(seeds[0.0])
    whys = list(islice(cycle(CANDIDATES), 8))
    usual, wished = (
        np.array([demand(seed, 3.0, why) for seed, why in zip(seeds[h], whys, strict=False)]) for h in (0.0, 0.5)
    )
    fast, walls, lips = (np.array(whys) == why for why in ("speed", "walls", "lips"))
    assert (wished[fast] >= 0.3).all() and np.median(wished[fast]) > 2 * np.median(usual[fast])
    assert (wished[walls] >= 1).mean() > 0.6 and not usual[walls].all()
    assert (wished[lips] > 1.5).all() and wished[lips].mean() > usual[lips].mean()


def test_a_folder_of_clips_is_learnt_from_and_what_is_broken_is_skipped(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k, sound in enumerate((True, True, False)):
        frames = np.repeat(rng.integers(0, 255, (1, 90, 120, 3), np.uint8), 20, 0)
        noise = Audio(rng.uniform(-0.3, 0.3, (2, 80_000)).astype(np.float32), 44100)
        media.write(Clip(frames, 10.0, noise if sound else None), folder / f"{k}.mp4")
        (folder / f"{k}.txt").write_text(f"clip number {k}")
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42 and then nothing")
    (folder / "broken.txt").write_text("it does not open")
    out = make_weights(tmp_path / "run")
    (out / SAMPLING_FILE).unlink()
    train("denoiser", "smoke", out, folder=folder)
    first = checkpoint.load(out / "denoiser.safetensors").hash
    (out / "denoiser.state").unlink()
    train("denoiser", "smoke", out, folder=folder)
    assert checkpoint.load(out / "denoiser.safetensors").hash == first
    assert NativeEngine(out).defaults.steps > Defaults().steps  # and leaves more open than one beneath a storyboard
    engine = NativeEngine(out)  # nobody knows these clips' storyboards: the picture must follow the prompt without one
    g = Geometry(4, 4, 4, 8)
    strip = Latents(torch.zeros(1, g.n, TOKEN_WIDTH), g, torch.ones(1, g.n))
    made = [engine.sample([f"clip number {k}"], [7], strip).values_BND[:, g.video] for k in (0, 1)]
    assert not torch.equal(*made)
    assert join(engine.generate(Request("clip number 1", seconds=2.0)))[0].frames.shape == (32, 128, 128, 3)
