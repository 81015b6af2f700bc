"""Clips of one's own, as the codecs' trainers ask for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from phonofilm import Audio, Clip, checkpoint, media
from phonofilm.cli import main
from phonofilm.errors import InputError
from phonofilm.media import read
from phonofilm.train.own import LEAST, OwnClips


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
    own = OwnClips(folder, tmp_path / "kept")
    levels = [[int(f.frames.float().mean() / 40 + 0.5) * 40 for f in own.films(range(k, k + 3))] for k in (0, 3, 6, 9)]
    assert all(sorted(turn) == [40, 120, 200] for turn in levels)
    assert len({tuple(turn) for turn in levels}) > 1
    again = OwnClips(folder, tmp_path / "kept")
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(own.films([4, 2]), again.films([4, 2]), strict=True))
    assert torch.equal(own.sounds([5, 1, 5]), again.sounds([5, 1, 5]))


def test_short_clips_and_silence_are_handled(folder: Path, tmp_path: Path) -> None:
    own = OwnClips(folder, tmp_path / "kept")
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
    OwnClips(folder, tmp_path / "kept")
    assert len(seen) == 4
    OwnClips(folder, tmp_path / "kept")
    assert len(seen) == 4
    _write(folder, 240, 0.2)
    assert len(OwnClips(folder, tmp_path / "kept").pictures) == 4 and len(seen) == 9


def test_a_folder_of_which_nothing_can_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"not a film")
    (tmp_path / "clip.txt").write_text("nothing")
    with pytest.raises(InputError, match="none of its 1 clips could be read"):
        OwnClips(tmp_path, tmp_path / "kept")


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
    before = video.hash
    assert main(["train", "decoder", *command[2:]]) == 0
    assert checkpoint.load(out / "video-codec.safetensors").hash != before
