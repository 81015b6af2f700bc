"""The measuring of conditions: its numbers know known faults, and it goes through the whole engine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from phonofilm.clip import Audio, Clip
from phonofilm.engines import NativeEngine
from phonofilm.errors import InputError
from phonofilm.evaluate.conditions import (
    FIRST_SEED,
    SEAM,
    conditions_markdown,
    level_step,
    measure_conditions,
    seam,
    true_clip,
)


def test_a_seam_is_seen_where_there_is_one() -> None:
    _, _, _, clip = true_clip(3)
    assert 0.5 < seam(clip.frames) < 2
    broken = clip.frames.copy()
    broken[SEAM:] = broken[SEAM:, :, ::-1]
    assert seam(broken) > 3 and seam(np.full((64, 32, 32, 3), 7, np.uint8)) == 1


def test_a_step_of_level_is_measured_in_db() -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, (1, 64_000)).astype(np.float32)
    samples[:, 32_000:] /= 10
    clip = Clip(np.zeros((64, 32, 32, 3), np.uint8), 16.0, Audio(samples, 16_000))
    assert level_step(clip) == pytest.approx(-20, abs=1)


def test_conditions_are_measured_through_the_engine_and_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phonofilm.evaluate.conditions.RIVALS", 16)
    engine = NativeEngine(tiny.make_weights(tmp_path / "weights"))
    kept, steps = tmp_path / "conditions.jsonl", []
    found = measure_conditions(engine, 1, kept, lambda done, total: steps.append((done, total)))
    assert steps == [(1, 1)]
    assert found["clips"] == 1 and found["matcher"]["n"] == 32
    assert 0 <= found["matcher"]["text_to_clip"] <= 0.4  # untrained: about 1 of 16
    assert np.isfinite([found["images"]["first"]["mean_loss_db"], found["continuation"]["level_p90_db"]]).all()
    table = "\n".join(conditions_markdown(found))
    assert "first image" in table and "recall at 1 of 16" in table

    made: list[int] = []

    def known(engine: NativeEngine, seed: int) -> dict[str, Any]:
        made.append(seed)
        return {name: [math.nan, -20.0] for name in ("video", "audio", "lips")} | {
            "seed": seed, "first": 3.0, "last": 0.0, "seam": 3.0, "seam_true": 1.0, "level": -6.0, "whole": False
        }  # fmt: skip

    monkeypatch.setattr("phonofilm.evaluate.conditions.measure_clip", known)
    monkeypatch.setattr("phonofilm.evaluate.conditions.matcher_recall", lambda engine: found["matcher"])
    more = measure_conditions(engine, 3, kept, lambda done, total: steps.append((done, total)))
    assert made == [FIRST_SEED + 1, FIRST_SEED + 2] and steps[1:] == [(2, 3), (3, 3)]
    assert more["images"]["last"]["within_1_db"] > 0.6 and more["continuation"]["lasting"] <= 1 / 3
    assert more["continuation"]["picture_median"] == 3.0
    assert more["video"]["n"] >= 4 and more["video"]["within_bt1359"] < 0.7  # what is not heard is outside
    assert measure_conditions(engine, 3, kept) == more and len(made) == 2
    with pytest.raises(InputError, match="another weights"):
        measure_conditions(NativeEngine(tiny.make_weights(tmp_path / "other", seed=1)), 3, kept)
