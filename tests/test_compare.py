"""Evaluations beside each other."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from phonofilm.cli import main
from phonofilm.errors import InputError
from phonofilm.evaluate.compare import compare, sign_test


def _evaluation(folder: Path, right: dict[int, bool], lag: float | None = 10.0, **about: object) -> Path:
    """A record of balls whose colour is right or not, by seed; what is not lasting has vanished."""
    folder.mkdir()
    head = {"size": [128, 128], "seconds": 3.0, "first_seed": 0, "wishes": {"best_of": 1}, **about}
    lines: list[dict[str, object]] = [head]
    for seed, ok in right.items():
        verdict = {
            "rows": [["colour", "ball", ok], ["vanishes", "ball", not ok]], "blow_lags": [["bounce", lag]],
            "lip_lags": [], "rms_dbfs": -20.0, "peak_dbfs": -3.0,
        }  # fmt: skip
        lines.append(
            {
                "split": "train_like", "seed": seed, "failed": "", "verdicts": {"truth": verdict, "generated": verdict},
                "fidelity": {}, "kind_psnr": [], "shifts_ms": [],
            }
        )  # fmt: skip
    (folder / "clips.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _row(text: str, title: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {title}")]
    return [cell.strip() for cell in line.replace("\\|", "").strip("|").split("|")][1:]


def test_the_same_clips_are_compared_and_no_others(tmp_path):
    off = _evaluation(tmp_path / "off", {0: True, 1: False, 2: False, 3: True, 9: False})
    on = _evaluation(tmp_path / "on", {3: False, 2: True, 1: True, 0: True}, lag=-50.0, wishes={"best_of": 4})
    text = compare([off, on])
    assert "4 clips" in text and "on: wishes {'best_of': 4}" in text
    assert _row(text, "colour right") == ["50.0 (4)", "75.0 (4); +2 −1, p 1"]
    assert _row(text, "something vanishes") == ["50.0 (4)", "25.0 (4); +2 −1, p 1"]
    assert _row(text, "impact sync") == ["10 / 10 / 100 (4)", "50 / 50 / 0 (4)"]


def test_what_is_not_heard_is_outside(tmp_path):
    text = compare([_evaluation(tmp_path / "a", {0: True}), _evaluation(tmp_path / "b", {0: True}, lag=None)])
    assert _row(text, "impact sync") == ["10 / 10 / 100 (1)", "none heard"]


def test_clips_of_another_length_are_no_pairs(tmp_path):
    folders = [_evaluation(tmp_path / "a", {0: True}), _evaluation(tmp_path / "b", {0: False}, seconds=2.0)]
    assert _row(compare(folders), "colour right") == ["100.0 (1)", "0.0 (1)"]


def test_the_sign_test_is_exact():
    assert sign_test(0, 0) == sign_test(1, 0) == sign_test(3, 3) == 1.0
    assert sign_test(5, 0) == sign_test(0, 5) == 2 / 32
    assert sign_test(9, 1) == pytest.approx(2 * (1 + 10) / 1024)
    assert sign_test(530, 470) == pytest.approx(math.erfc((60 - 1) / math.sqrt(2 * 1000)), rel=0.02)  # de Moivre


@pytest.mark.parametrize("content", [None, "", "\xff\x00", '{"size": []}\n{"split": 1}\n'])
def test_what_holds_no_evaluation_is_named(content, tmp_path, capsys):
    good = _evaluation(tmp_path / "good", {0: True})
    bad = tmp_path / "bad"
    bad.mkdir()
    if content is not None:
        (bad / "clips.jsonl").write_bytes(content.encode("latin-1"))
    assert main(["evaluate", "--compare", str(good), str(bad)]) == 2
    err = capsys.readouterr().err
    assert "bad" in err and err.count("\n") == 1
    assert main(["evaluate", "--compare", str(good)]) == 0


def test_nothing_in_common_is_an_error(tmp_path):
    folders = [_evaluation(tmp_path / "a", {0: True}), _evaluation(tmp_path / "b", {1: True})]
    with pytest.raises(InputError, match="in common"):
        compare(folders)
