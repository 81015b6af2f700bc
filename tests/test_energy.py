"""Meters and receipts: stages sum to the whole, and an estimate is called one."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phonofilm.energy import (
    OTHER,
    WATTS_PER_CORE,
    WATTS_VARIABLE,
    CpuEstimate,
    Meter,
    Rapl,
    Receipt,
    Stage,
    find_sources,
    watts_per_core,
)


class Counter:
    """A source that the test turns by hand."""

    method = "measured: by hand"

    def __init__(self) -> None:
        self.value = 1000.0

    def joules(self) -> float:
        return self.value


def test_energy_goes_to_the_stage_in_which_it_was_spent() -> None:
    counter = Counter()
    with Meter(sources=[counter]) as meter:
        counter.value += 1
        with meter.stage("denoise"):
            counter.value += 10
            with meter.stage("decode"):
                counter.value += 100
            counter.value += 20
        with meter.stage("decode"):
            counter.value += 200
        counter.value += 2
    assert {name: stage.energy_j for name, stage in meter.stages.items()} == {OTHER: 3, "denoise": 30, "decode": 300}
    assert meter.total.energy_j == 333 and meter.method == "measured: by hand"


@given(st.recursive(st.just([]), lambda inner: st.lists(inner, max_size=3), max_leaves=10))
def test_stages_always_sum_to_the_whole(tree: list[object]) -> None:
    counter = Counter()

    def work(node: object, depth: int) -> None:
        with meter.stage(f"stage {depth % 3}"):
            counter.value += 1
            assert isinstance(node, list)
            for child in node:
                work(child, depth + 1)

    began = time.perf_counter()
    with Meter(sources=[counter]) as meter:
        work(tree, 0)
    whole = time.perf_counter() - began
    assert meter.total.energy_j == counter.value - 1000
    assert 0 <= meter.total.seconds <= whole


def test_a_stage_that_fails_is_charged_and_closed() -> None:
    counter = Counter()
    with Meter(sources=[counter]) as meter:
        try:
            with meter.stage("text"):
                counter.value += 5
                raise KeyError("x")
        except KeyError:
            counter.value += 7
    assert meter.stages["text"].energy_j == 5 and meter.stages[OTHER].energy_j == 7


def test_the_estimate_is_cpu_time_times_watts() -> None:
    def spend(seconds: float) -> float:
        with Meter(sources=[CpuEstimate(watts=100)]) as meter, meter.stage("work"):
            began = time.process_time()
            while time.process_time() - began < seconds:
                pass
        return meter.stages["work"].energy_j

    assert 5 <= spend(0.1) <= 25  # os.times counts in hundredths of a second
    with Meter(sources=[CpuEstimate(watts=100)]) as meter, meter.stage("sleep"):
        time.sleep(0.1)
    assert meter.stages["sleep"].seconds >= 0.1 and meter.stages["sleep"].energy_j <= 5


def test_watts_can_be_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WATTS_VARIABLE, raising=False)
    assert watts_per_core() == WATTS_PER_CORE
    monkeypatch.setenv(WATTS_VARIABLE, "9.5")
    assert CpuEstimate().watts == 9.5 and "estimated" in CpuEstimate().method and "9.5 W" in CpuEstimate().method
    for bad in ("", "much", "-1", "0", "inf", "nan"):
        monkeypatch.setenv(WATTS_VARIABLE, bad)
        with pytest.raises(ValueError, match=f"{WATTS_VARIABLE} is '{bad}'"):
            watts_per_core()


def make_rapl(root: Path, zones: dict[str, int]) -> None:
    for name, energy_uj in zones.items():
        (root / name).mkdir(exist_ok=True)
        (root / name / "energy_uj").write_text(f"{energy_uj}\n")
        (root / name / "max_energy_range_uj").write_text("10000000\n")


def test_rapl_sums_packages_and_survives_a_wrap(tmp_path: Path) -> None:
    make_rapl(tmp_path, {"intel-rapl:0": 9_000_000, "intel-rapl:1": 0, "intel-rapl:0:0": 0})
    rapl = Rapl(tmp_path)
    make_rapl(tmp_path, {"intel-rapl:0": 9_500_000, "intel-rapl:1": 250_000, "intel-rapl:0:0": 400_000})
    assert rapl.joules() == pytest.approx(0.75)  # the core zone 0:0 lies within package 0
    make_rapl(tmp_path, {"intel-rapl:0": 500_000})
    assert rapl.joules() == pytest.approx(1.75)
    with pytest.raises(OSError, match="no RAPL package"):
        Rapl(tmp_path / "intel-rapl:1")


def test_sources_say_what_they_are() -> None:
    for source in find_sources():
        assert source.method.startswith(("measured: ", "estimated: "))
        first = source.joules()
        assert source.joules() >= first
    assert any("GPU 99" in source.method and "not measured" in source.method for source in find_sources(gpu=99))


def test_a_receipt_comes_back_from_json() -> None:
    with Meter(sources=[Counter()]) as meter, meter.stage("text"):
        pass
    receipt = Receipt.of(meter, {"prompt": "a red ball “hops” 🎬", "seconds": 3.0}, seed=7, weights="ab" * 32)
    text = receipt.to_json()
    assert Receipt.from_json(text) == receipt and "🎬" in text
    assert receipt.total_seconds == pytest.approx(sum(stage.seconds for stage in meter.stages.values()))
    assert receipt.energy_method == "measured: by hand" and receipt.versions["python"].count(".") == 2


def test_what_is_no_receipt_is_refused() -> None:
    with Meter(sources=[]) as meter:
        pass
    with pytest.raises(ValueError, match="plain JSON"):
        Receipt.of(meter, {"image": object()}, 0, "").to_json()
    for text in ("", "[]", "{}", '{"seed": 1}'):
        with pytest.raises(ValueError, match="not a receipt"):
            Receipt.from_json(text)


def test_stages_add() -> None:
    total = Stage(1, 2) + Stage(3, 4) - Stage(0.5, 0.5)
    assert math.isclose(total.seconds, 3.5) and math.isclose(total.energy_j, 5.5)
