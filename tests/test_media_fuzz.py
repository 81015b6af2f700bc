"""Hostile uploads: refused or accepted, never worse. `scripts/fuzz_media.py` does the same with many more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_media import Report, fuzz
from hostile_media import Bait, corpus, hostile, valid

from phonofilm.errors import InputError
from phonofilm.serve.uploads import Uploads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="whether baits are opened is seen on Linux alone")


def sound(report: Report) -> bool:
    told = "\n".join(f"{name}: {told}" for name, told in report.failures.items())
    assert not report.failures, told
    return sum(report.answers.values()) == report.files


def test_hostile_files_are_answered_cleanly(tmp_path: Path) -> None:
    report = fuzz(tmp_path, 150, seed=1)
    assert sound(report) and report.answers["accepted"] > 20 and report.answers["refused"] > 20
    assert report.child_mib > 0 and report.child_cpu < 20


def test_so_they_are_where_each_decoder_is_started_as_the_server_does(tmp_path: Path) -> None:
    report = fuzz(tmp_path, 5, real=True)
    assert sound(report) and report.answers == {"accepted": 5}  # valid files come first


@pytest.mark.parametrize("fault", ["opened", "error", "told", "left", "ran"])
def test_what_must_not_be_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def look(self: Uploads, path: Path, what: str) -> str:
        bait = tmp_path / "bait"
        if fault == "opened":
            (bait / "a.mp4").read_bytes()
        if fault == "error":
            raise RuntimeError("odd")
        if fault == "told":
            raise InputError(f"{what}: cannot read {path}")
        if fault == "left":
            (path.parent.parent / "more").touch()
        if fault == "ran":
            (bait / "marker").touch()
        return "video"

    monkeypatch.setattr(Uploads, "_look", look)
    assert fuzz(tmp_path, 1).failures


def test_a_decoder_that_dies_is_contained_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.Popen

    def dying(command: list[str], **more: object) -> subprocess.Popen[str]:
        code = "import fuzz_media as f, os; f.sandbox.main = lambda _: os.abort(); f.nursery()"
        return run([command[0], "-c", code], **more)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr("fuzz_media.subprocess.Popen", dying)
    report = fuzz(tmp_path, 3)
    assert sound(report) and report.answers == {"child ended with signal 6": 3} and len(report.ended) == 3


def test_the_same_seed_makes_the_same_files(tmp_path: Path) -> None:
    bait = Bait((tmp_path / "a.mp4", tmp_path / "a.png"), 1, tmp_path / "marker")
    runs = [[next(files) for _ in range(60)] for files in (corpus(bait, 3), corpus(bait, 3), corpus(bait, 4))]
    assert runs[0] == runs[1] != runs[2]
    names = " ".join(hostile(bait, valid()))
    for kind in ("HLS", "concat", "SVG", "DASH", "pickle", "zip", "drefs", "bomb", "PNG 2³¹", "WAV", "GIF frames"):
        assert kind in names
