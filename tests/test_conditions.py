"""The measuring of conditions: its numbers know known faults, and it goes through the whole engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny

from phonofilm.clip import Audio, Clip
from phonofilm.engines import NativeEngine
from phonofilm.evaluate.conditions import SEAM, conditions_markdown, level_step, measure_conditions, seam, true_clip


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


def test_conditions_are_measured_through_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phonofilm.evaluate.conditions.RIVALS", 16)
    engine = NativeEngine(tiny.make_weights(tmp_path))
    steps: list[tuple[int, int]] = []
    found = measure_conditions(engine, 1, lambda done, total: steps.append((done, total)))
    assert steps == [(k, 4) for k in range(1, 5)]
    assert found["clips"] == 1 and found["matcher"]["n"] == 32
    assert 0 <= found["matcher"]["text_to_clip"] <= 0.4  # untrained: about 1 of 16
    assert np.isfinite([found["images"]["first"]["mean_loss_db"], found["continuation"]["level_p90_db"]]).all()
    table = "\n".join(conditions_markdown(found))
    assert "first image" in table and "recall at 1 of 16" in table
