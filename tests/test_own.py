"""Clips of one's own, as the codecs' trainers ask for them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_weights

from phonofilm import Audio, Clip, checkpoint, media
from phonofilm.cli import main
from phonofilm.codec.codec import Codec
from phonofilm.errors import CheckpointError, InputError
from phonofilm.media import read
from phonofilm.train import footage
from phonofilm.train.own import LEAST, OwnClips
from phonofilm.train.road import train


def _write(folder: Path, level: int, sound: float | None, frames: int = 40) -> None:
    picture = np.full((frames, 128, 128, 3), level, np.uint8)
    audio = None if sound is None else Audio(np.full((1, frames * 1000), sound, np.float32), 16_000)
    media.write(Clip(picture, 16.0, audio), folder / f"{level}.mp4")
    (folder / f"{level}.txt").write_text(f"level {level}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "clips"
    found.mkdir()
    for level, sound, frames in ((40, 0.1, 40), (120, None, 64), (200, 0.3, 8)):
        _write(found, level, sound, frames)
    (found / "broken.mp4").write_bytes(b"not a film")
    (found / "broken.txt").write_text("nothing")
    return found


def test_every_clip_comes_once_each_time_round_and_always_as_it_was(folder: Path, tmp_path: Path) -> None:
    own = OwnClips(folder, tmp_path)
    levels = [[int(f.frames.float().mean() / 40 + 0.5) * 40 for f in own.films(range(k, k + 3))] for k in (0, 3, 6, 9)]
    assert all(sorted(turn) == [40, 120, 200] for turn in levels)
    assert len({tuple(turn) for turn in levels}) > 1
    again = OwnClips(folder, tmp_path)
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(own.films([4, 2]), again.films([4, 2]), strict=True))
    assert torch.equal(own.sounds([5, 1, 5]), again.sounds([5, 1, 5]))


def test_short_clips_and_silence_are_handled(folder: Path, tmp_path: Path) -> None:
    own = OwnClips(folder, tmp_path)
    assert min(len(f.frames) for f in own.films(range(3))) == LEAST
    sounds = own.sounds(range(20))
    assert sounds.shape == (20, 32_000) and len(own.tracks) == 2
    assert bool((sounds[:, :6000].abs().mean(1) > 0.05).all())  # the silent clip is none of them


def test_clips_are_read_once_until_they_change(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def watching(path: Path, **options: object) -> Clip:
        seen.append(Path(path).name)
        return read(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("phonofilm.data.folder.read", watching)
    OwnClips(folder, tmp_path)
    assert len(seen) == 4
    OwnClips(folder, tmp_path)
    assert len(seen) == 4
    _write(folder, 240, 0.2)
    assert len(OwnClips(folder, tmp_path).pictures) == 4 and len(seen) == 9


def test_a_folder_of_which_nothing_can_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"not a film")
    (tmp_path / "clip.txt").write_text("nothing")
    with pytest.raises(InputError, match="none of its 1 clips could be read"):
        OwnClips(tmp_path, tmp_path / "run")


@pytest.mark.parametrize("silent", [False, True])
def test_codecs_are_trained_on_them(silent: bool, tmp_path: Path) -> None:
    folder, out = tmp_path / "clips", tmp_path / "run"
    folder.mkdir()
    _write(folder, 60, None if silent else 0.2)
    command = ["train", "codec", "--preset", "smoke", "--data", str(folder), "--out", str(out)]
    assert main(command) == 0
    video, audio = (checkpoint.load(out / f"{kind}-codec.safetensors") for kind in ("video", "audio"))
    shipped = checkpoint.load(Path(media.__file__).parents[1] / "weights" / "audio-codec.safetensors")
    assert (audio.hash == shipped.hash) == silent  # without any sound that is the one to use
    decoder = ["train", "decoder", *command[2:]]
    assert main(decoder) == 0
    further, heard = (checkpoint.load(out / f"{kind}-codec.safetensors").hash for kind in ("video", "audio"))
    assert further != video.hash and (heard == audio.hash) == silent
    _write(folder, 90, None if silent else 0.1)
    assert main(command) == main(decoder) == 0  # what is done is not done again, and nothing that depends on it is lost
    assert checkpoint.load(out / "video-codec.safetensors").hash == further
    assert checkpoint.load(out / "audio-codec.safetensors").hash == heard


def test_clips_that_lie_beside_a_run_stay_there(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    _write(folder, 60, 0.2)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["train", "codec", "--preset", "smoke", "--data", str(folder), "--out", str(tmp_path)]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept


def test_latents_are_made_of_what_is_new_and_of_what_was_cut_off(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, encode = Codec.load(make_weights(tmp_path / "weights")), footage.encode_batch
    done: list[int] = []

    def until(count: int) -> None:
        def encoding(*given: Any) -> Any:
            if len(done) == count:
                raise KeyboardInterrupt
            done.append(1)
            return encode(*given)

        monkeypatch.setattr(footage, "encode_batch", encoding)

    def captions() -> list[str]:
        return [row["caption"] for shard in footage.film_folder(codec, tmp_path, folder) for row in shard.metadata]

    until(1)
    with pytest.raises(KeyboardInterrupt):
        captions()
    until(99)
    assert sorted(captions()) == ["level 120", "level 200", "level 40"] and len(done) == 3
    assert len(captions()) == 3 and len(done) == 3
    (folder / "40.txt").write_text("something else")
    assert "something else" in captions() and "level 40" not in captions()


def test_what_learnt_another_codecs_latents_is_refused(folder: Path, tmp_path: Path) -> None:
    out = make_weights(tmp_path / "run")
    train("text", "smoke", out, folder=folder)
    shutil.copy(Path(media.__file__).parents[1] / "weights" / "audio-codec.safetensors", out)
    with pytest.raises(CheckpointError, match="learnt the latents of codec"):
        train("text", "smoke", out, folder=folder)
