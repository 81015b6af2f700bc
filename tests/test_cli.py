"""The command line: exit codes, one clear line for each error, nothing half-written, and a fast --help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import make_weights

from phonofilm import Clip, media
from phonofilm.cli import main


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_weights(tmp_path_factory.mktemp("weights")))


def test_generate_writes_film_sheet_and_receipt(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "film.mp4"
    code = main(
        ["generate", "a red ball", "-o", str(target), "--weights", weights, "--seconds", "2", "--steps", "1",
         "--sheet", "--receipt"]
    )  # fmt: skip
    assert code == 0
    clip = media.read(target)
    assert clip.seconds == pytest.approx(2.0, abs=0.03) and clip.audio is not None
    assert (tmp_path / "new" / "film.sheet.png").stat().st_size > 1000
    receipt = json.loads((tmp_path / "new" / "film.receipt.json").read_text())
    assert receipt["request"]["prompt"] == "a red ball" and receipt["total_seconds"] > 0
    assert str(target) in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", ""],
        ["generate", "   "],
        ["generate", "word " * 10_000],
        ["generate", "a ball", "--seconds", "99"],
        ["generate", "a ball", "--seconds", "nan"],
        ["generate", "a ball", "--size", "7x7"],
        ["generate", "a ball", "--size", "huge"],
        ["generate", "a ball", "--seed", "-1"],
        ["generate", "a ball", "-o", "film.exe"],
        ["generate", "a ball", "-o", "film.png"],
        ["generate", "a ball", "-o", "%04d.jpg"],
        ["generate", "a ball", "--picture", "-o", "film.wav"],
        ["evaluate", "--seconds", "5"],
        ["evaluate", "--best-of", "100"],
        ["generate", "a ball", "--image", "missing.png"],
        ["generate", "a ball", "--mask", "alone.png"],
        ["match", "a ball", "missing.mp4"],
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    weights: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "generate":
        arguments = [*arguments, "--weights", weights]
    assert main(arguments) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("phonofilm: ") and "\n" not in told and "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_a_mask_goes_with_its_clip(weights: str, tmp_path: Path) -> None:
    media.write(Clip(np.full((32, 128, 128, 3), 90, np.uint8), 16.0), tmp_path / "clip.mp4")
    mask = np.zeros((1, 64, 64, 3), np.uint8)
    mask[:, :16, :16] = 255
    media.write(Clip(mask, 16.0), tmp_path / "mask.png")
    made = tmp_path / "made.mp4"
    given = ["--video", str(tmp_path / "clip.mp4"), "--mask", str(tmp_path / "mask.png"), "--receipt"]
    options = ["--weights", weights, "--seconds", "2", "--steps", "1", "--no-sign"]
    assert main(["generate", "a ball", *given, *options, "-o", str(made)]) == 0
    told = json.loads(made.with_suffix(".receipt.json").read_text())
    assert [condition["role"] for condition in told["request"]["conditions"]] == ["video", "mask"]
    frames = media.read(made).frames.astype(int)
    assert np.abs(frames[:, 40:, 40:] - 90).max() < 24 < np.abs(frames[:, :32, :32] - 90).max()


@pytest.mark.parametrize("role", ["video", "continue", "image"])
def test_what_is_given_is_not_written_over(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`film.mp4` is where a film goes, if nothing else is said."""
    monkeypatch.chdir(tmp_path)
    media.write(Clip(np.full((32, 48, 64, 3), 90, np.uint8), 16.0), Path("film.mp4"))
    before = Path("film.mp4").read_bytes()
    assert main(["generate", "it goes on", "--model", "fake", f"--{role}", "./film.mp4"]) == 2
    assert "name another file to write" in capsys.readouterr().err
    assert Path("film.mp4").read_bytes() == before


def test_only_native_takes_weights(weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "film.mp4"
    assert main(["generate", "a ball", "--model", "fake", "--weights", weights, "-o", str(target)]) == 2
    assert "weights is a choice for native" in capsys.readouterr().err and not target.exists()


def test_hostile_media_are_refused(weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = tmp_path / "evil.mp4"
    evil.write_text("ffconcat version 1.0\nfile /etc/hostname\n")
    assert main(["generate", "a ball", "--video", str(evil), "--weights", weights, "-o", str(tmp_path / "x.mp4")]) == 2
    assert "phonofilm: " in capsys.readouterr().err
    assert not (tmp_path / "x.mp4").exists()


@pytest.mark.parametrize("damage", ["truncated", "other", "missing", "tokenizer"])
def test_wrong_weights(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_weights(tmp_path / "w")
    path = folder / ("tokenizer.json" if damage == "tokenizer" else "denoiser.safetensors")
    if damage in ("truncated", "tokenizer"):
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "other":
        path.write_bytes((folder / "matcher.safetensors").read_bytes())
    else:
        path.unlink()
    target = tmp_path / "film.mp4"
    assert main(["generate", "a ball", "--weights", str(folder), "-o", str(target)]) in (1, 2)
    told = capsys.readouterr().err.strip()
    assert path.name in told and "\n" not in told
    assert not target.exists()


def test_a_place_that_cannot_be_written_is_one_line(weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    code = main(["generate", "a ball", "--weights", weights, "--seconds", "2", "--steps", "1", "-o", "/dev/full/x.mp4"])
    assert code != 0
    assert capsys.readouterr().err.count("\n") == 1


def test_help_loads_no_torch_and_names_every_command() -> None:
    script = (
        "import sys; from phonofilm.cli import build_parser; text = build_parser().format_help();"
        "assert 'torch' not in sys.modules and 'av' not in sys.modules; print(text)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for command in ("generate", "examples", "match", "train", "evaluate"):
        assert command in done.stdout


def test_examples_are_all_known_words(capsys: pytest.CaptureFixture[str]) -> None:
    from phonofilm.playhouse.captions import unknown_words

    assert main(["examples"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) >= 10 and not any(unknown_words(line) for line in lines)


def test_match_prints_a_number(weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "film.mp4")
    assert main(["generate", "a ball", "-q", "--weights", weights, "--seconds", "2", "--steps", "1", "-o", target]) == 0
    capsys.readouterr()
    assert main(["match", "a red ball", target, "--weights", weights]) == 0
    assert -1 <= float(capsys.readouterr().out) <= 1
