"""A folder of captioned clips: odd ones are understood, unreadable ones are told and passed over."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from conftest import FPS, flash_clip
from make_odd_clips import FLASH, ODD, make_odd_clips

from phonofilm.clip import FORMATS, Clip
from phonofilm.data import Folder, LatentCache
from phonofilm.errors import CheckpointError, InputError
from phonofilm.media import write

FEW = ("plain.mp4", "film.mp4", "uneven.webm", "odd-size.mkv", "tall.mp4", "quarter-turn.mp4", "half-turn.mp4",
       "surround.mkv", "silent.gif", "late.mkv", "anamorphic.mp4", "truncated.mp4", "text.mp4", "uncaptioned.mp4",
       "blank-caption.mp4")  # fmt: skip


def path_of(odd):
    return odd.name.replace(".", "-") + "." + odd.name.rsplit(".", 1)[1]


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    make_odd_clips(folder, [odd for odd in ODD if odd.name in FEW])
    return folder


def test_the_script_makes_forty_kinds():
    assert len(ODD) == 40
    assert len({odd.name for odd in ODD}) == 40


@pytest.mark.filterwarnings("error")
def test_odd_clips_are_understood(odd_folder, caplog):
    with caplog.at_level(logging.WARNING):
        folder = Folder(odd_folder, trusted=True)
        items = {item.path.name: item for item in folder}
    told = "\n".join(folder.skipped)
    for odd in ODD:
        if odd.name not in FEW:
            continue
        if not odd.readable:
            assert path_of(odd) not in items
            assert path_of(odd) in told
            assert path_of(odd) in caplog.text
            continue
        item = items[path_of(odd)]
        clip = item.clip
        assert (clip.width, clip.height) in FORMATS.values()
        assert clip.fps == 16
        assert len(clip.frames) == round(odd.seconds * 16) // 4 * 4
        assert clip.audio.samples.shape == (1, len(clip.frames) * 1000)
        assert item.has_audio == (odd.sound is not None)
        assert odd.name in item.caption
        # upright: red is in the upper left corner (unless cropped away), and in no other
        frame = clip.frames[0].astype(int)
        h, w = clip.height // 8, clip.width // 8
        red = [f.mean((0, 1))[0] > 150 for f in (frame[:h, -w:], frame[-h:, :w], frame[-h:, -w:])]
        assert not any(red)
        if odd.name != "tall.mp4":
            assert frame[:h, :w].mean((0, 1)) == pytest.approx([220, 30, 30], abs=6)
        # flash and beep come together, at their time, to within the frames of the source
        bright = clip.frames[:, clip.height * 2 // 3 :].mean((1, 2, 3)) > 150
        seen = bright.argmax() / 16
        assert abs(seen - FLASH[0]) <= 1 / 16 + 1 / odd.fps / 2
        if item.has_audio:
            heard = (np.abs(clip.audio.samples[0]) > 0.1).argmax() / 16_000
            assert abs(heard - FLASH[0]) < 0.005


def test_the_sandbox_skips_too(odd_folder):
    broken = [odd_folder / "truncated-mp4.mp4", odd_folder / "text-mp4.mp4"]
    folder = Folder(odd_folder)
    folder.entries = [e for e in folder.entries if e.video in [*broken, odd_folder / "plain-mp4.mp4"]]
    assert [item.path.name for item in folder] == ["plain-mp4.mp4"]
    assert sum(str(path) in line for path in broken for line in folder.skipped) == 2


def test_a_listing(tmp_path, clip):
    write(clip, tmp_path / "deep" / "a.mp4")
    write(Clip(clip.frames, FPS), tmp_path / "b.webm")
    write(clip, tmp_path / "c.wav")
    write(Clip(clip.frames[:1], FPS), tmp_path / "d.png")
    write(Clip(clip.frames[:2], FPS), tmp_path / "e.mkv")
    lines = [
        {"video": "deep/a.mp4", "caption": "  one\n two "},
        {"video": "b.webm", "caption": "sound from elsewhere", "audio": "c.wav"},
        {"video": "b.webm", "caption": "no sound"},
        {"video": "d.png", "caption": "a picture"},
        {"video": "e.mkv", "caption": "two frames"},
        {"video": "missing.mp4", "caption": "gone"},
        {"video": "../../etc/passwd", "caption": "outside"},
        {"video": "b.webm"},
        {"video": "b.webm", "caption": ""},
        [],
    ]
    text = "\n".join(json.dumps(line) for line in lines) + "\n{broken\n\n"
    (tmp_path / "metadata.jsonl").write_text(text)
    folder = Folder(tmp_path, size=(64, 32), trusted=True)
    items = list(folder)
    captions = ["one two", "sound from elsewhere", "no sound", "a picture", "two frames"]
    assert [item.caption for item in items] == captions
    assert [item.has_audio for item in items] == [True, True, False, False, False]
    assert [len(item.clip.frames) for item in items] == [32, 32, 32, 1, 4]
    assert all(item.clip.frames.shape[1:] == (32, 64, 3) for item in items)
    assert np.abs(items[1].clip.audio.samples - clip.audio.samples).max() < 1e-3
    assert not items[2].clip.audio.samples.any()
    for told in ("line 7: '../../etc/passwd' lies outside", "line 8: lacks", "caption is empty", "line 10", "line 11",
                 "missing.mp4: there is no such file"):  # fmt: skip
        assert any(told in line for line in folder.skipped), told
    assert len(folder.skipped) == 6
    assert len(list(folder)) == 5
    assert len(folder.skipped) == 6  # not told twice


def test_folders_without_clips_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        Folder(tmp_path / "none")
    write(flash_clip(4, at=1), tmp_path / "a.mp4")
    with pytest.raises(InputError, match="no clip with a caption"):
        Folder(tmp_path)


def shard(start, rows=3):
    return {"z": torch.arange(start, start + rows * 4.0).reshape(rows, 4).to(torch.bfloat16)}


def test_latents_come_back_in_order(tmp_path):
    cache = LatentCache(tmp_path / "c", "abc")
    cache.append(shard(0), ["a", {"b": 1}, None])
    cache.append(shard(100, rows=1))
    for again in (cache, LatentCache(tmp_path / "c", "abc")):
        first, second = again.load()
        assert torch.equal(first.tensors["z"], shard(0)["z"])
        assert first.metadata == ["a", {"b": 1}, None]
        assert torch.equal(second.tensors["z"], shard(100, 1)["z"])
        assert len(again) == 2


def test_latents_of_another_codec_are_refused(tmp_path):
    LatentCache(tmp_path, "abc").append(shard(0))
    with pytest.raises(CheckpointError, match="made by codec abc…, needed is def…; name another directory"):
        LatentCache(tmp_path, "def")
    (tmp_path / "cache.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        LatentCache(tmp_path, "abc")
    (tmp_path / "cache.json").unlink()
    with pytest.raises(CheckpointError, match="unknown codec"):
        LatentCache(tmp_path, "abc")


def test_an_interrupted_append_leaves_the_cache_intact(tmp_path, monkeypatch):
    cache = LatentCache(tmp_path, "abc")
    cache.append(shard(0))

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", stop)
        with pytest.raises(KeyboardInterrupt):
            cache.append(shard(9))
    (tmp_path / ".000001.safetensors.x.part").write_bytes(b"half")  # as a kill would leave it
    assert len(cache.load()) == 1
    cache.append(shard(5))
    assert torch.equal(LatentCache(tmp_path, "abc").load()[1].tensors["z"], shard(5)["z"])


def test_rows_must_agree(tmp_path):
    with pytest.raises(ValueError, match="equal rows"):
        LatentCache(tmp_path, "abc").append({"a": torch.zeros(2), "b": torch.zeros(3)})
    with pytest.raises(ValueError, match="equal rows"):
        LatentCache(tmp_path, "abc").append({"a": torch.zeros(2)}, ["one"])
