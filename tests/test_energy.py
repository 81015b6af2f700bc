"""Meters and receipts: stages sum to the whole, and an estimate is called one."""

from __future__ import annotations

import itertools
import math
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phonofilm import energy
from phonofilm.clip import Clip
from phonofilm.energy import (
    OTHER,
    WATTS_PER_CORE,
    WATTS_VARIABLE,
    CpuEstimate,
    Meter,
    Rapl,
    Receipt,
    Shared,
    Stage,
    find_sources,
    watts_per_core,
)
from phonofilm.engines import Hooks
from phonofilm.request import Request


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


class Gpu:
    """`pynvml` of a machine with two GPUs, and `torch.cuda` that sees the second one alone, as number 0."""

    UUIDS: ClassVar = ("GPU-0000-aaaa", "GPU-1111-bbbb")
    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **properties: object) -> None:
        self.millijoules, self.broken = [5_000_000, 7_000_000], False
        monkeypatch.setitem(sys.modules, "pynvml", self)  # type: ignore[arg-type]
        monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(**properties))

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        if uuid not in self.UUIDS:
            raise self.NVMLError("not found")
        return self.UUIDS.index(uuid)

    def nvmlDeviceGetHandleByPciBusId(self, place: str) -> int:
        return ["00000000:17:00.0", "00000001:c3:00.0"].index(place)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return b"first" if handle == 0 else b"second"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if self.broken:
            raise self.NVMLError("lost")
        return self.millijoules[handle]


@pytest.fixture
def fresh() -> Iterator[None]:
    """No counter that another test found, and none left for the next one."""
    for found in (energy._nvml, energy._rapl, energy._cpu):
        found.cache_clear()
    yield
    for found in (energy._nvml, energy._rapl, energy._cpu):
        found.cache_clear()


PLACE = {"pci_domain_id": 1, "pci_bus_id": 0xC3, "pci_device_id": 0}


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("properties", [{"uuid": "1111-bbbb"}, {"uuid": "of a part", **PLACE}, PLACE])
@pytest.mark.parametrize("gpu", [0, "cuda", "cuda:0", torch.device("cuda")])
def test_the_gpu_that_cuda_renumbered_is_measured(
    monkeypatch: pytest.MonkeyPatch, properties: dict[str, object], gpu: object
) -> None:
    machine = Gpu(monkeypatch, **properties)
    with Meter(gpu=gpu) as meter, meter.stage("denoise"):
        machine.millijoules[0] += 900_000
        machine.millijoules[1] += 50_000
    assert meter.method.startswith("measured: NVML, second") and 50 <= meter.stages["denoise"].energy_j < 900


@pytest.mark.usefixtures("fresh")
def test_a_number_that_may_be_another_gpus_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    Gpu(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert find_sources(0)[0].method == "GPU 0 is not counted (NVML cannot read it)"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert find_sources(1)[0].method.startswith("measured: NVML, second")


@pytest.mark.usefixtures("fresh")
def test_what_is_not_counted_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    Gpu(monkeypatch, uuid="1111-bbbb")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    for gpu, told in (("cuda", "GPU 0"), ("cuda:3", "GPU 3"), (99, "GPU 99"), ("mps", "device mps")):
        assert f"{told} is not counted" in Meter(gpu=gpu).method
    assert "the GPUs of 3 more processes are not counted" in Meter(gpu="cuda", processes=4).method
    for gpu in (None, "cpu", torch.device("cpu")):
        assert "not counted" not in Meter(gpu=gpu).method


@pytest.mark.usefixtures("fresh")
def test_no_film_is_lost_because_its_counter_is(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Gpu(monkeypatch, uuid="1111-bbbb")
    with Meter(gpu="cuda") as meter:
        machine.broken = True
        with meter.stage("denoise"):
            pass
    assert "second, with all that runs on it, which could not always be read" in meter.method


@pytest.mark.usefixtures("fresh")
def test_engines_measure_the_gpu_that_they_compute_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from phonofilm.engines import scoring
    from phonofilm.engines.native import NativeEngine
    from phonofilm.engines.open.engine import OpenEngine

    class Seen(Exception):
        pass

    def meter(gpu: object = None, **_: object) -> None:
        raise Seen(str(gpu))

    for module in ("native", "open.engine", "scoring"):
        monkeypatch.setattr(f"phonofilm.engines.{module}.Meter", meter)
    request = Request("a red ball", seconds=2)
    native = NativeEngine(device="cuda:1")
    with pytest.raises(Seen, match="cuda:1"):
        next(native.generate(request))
    film = Clip(np.zeros((24, 64, 64, 3), np.uint8), 24.0)
    with pytest.raises(Seen, match="cuda:1"):
        scoring.scored(film, request, native)
    opened = OpenEngine.__new__(OpenEngine)
    monkeypatch.setattr(OpenEngine, "machine", SimpleNamespace(device="cuda"))
    monkeypatch.setattr(OpenEngine, "_measures", lambda *_: (8.0, 8, (64, 64)))
    with pytest.raises(Seen, match="cuda"):
        next(opened._generate(request, None, Hooks()))  # type: ignore[arg-type]


# --- films side by side ---
def test_meters_that_are_open_at_once_share_what_was_spent() -> None:
    counter = Counter()
    both = Shared(counter)
    counter.value += 1000  # before anybody
    with Meter(sources=[both]) as alone:
        counter.value += 8
    counter.value += 1000  # between
    with Meter(sources=[both]) as first, first.stage("denoise"):
        counter.value += 10
        with Meter(sources=[both]) as second:
            counter.value += 100
            with second.stage("denoise"):
                counter.value += 200
        counter.value += 20
    assert alone.total.energy_j == 8 and alone.method == counter.method
    assert first.stages["denoise"].energy_j == first.total.energy_j == 10 + 50 + 100 + 20
    assert second.stages[OTHER].energy_j == 50 and second.stages["denoise"].energy_j == 100
    for meter in (first, second):
        assert meter.method == "measured: by hand, shared equally with what else was made at the same time"


@pytest.mark.usefixtures("fresh")
def test_films_of_several_threads_add_up_to_what_the_process_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()  # a CPU second passes between any two looks at it
    monkeypatch.setattr(energy, "Rapl", lambda: (_ for _ in ()).throw(FileNotFoundError("none")))
    monkeypatch.setattr(CpuEstimate, "joules", lambda _: float(next(clock)))
    ready = threading.Barrier(4)

    def film(_: int) -> Meter:
        ready.wait(60)
        with Meter() as meter:
            ready.wait(60)
            for _ in range(50):
                with meter.stage("denoise"):
                    pass
            ready.wait(60)
        return meter

    with ThreadPoolExecutor(4) as pool:
        films = list(pool.map(film, range(4)))
    whole = next(clock)
    spent = sum(meter.total.energy_j for meter in films)
    assert 400 < spent <= whole and all("shared equally" in meter.method for meter in films)


def test_a_film_that_is_left_unfinished_takes_no_more_shares() -> None:
    counter = Counter()
    both = Shared(counter)

    def film() -> Iterator[int]:
        with Meter(sources=[both]):
            yield 1
            yield 2

    chunks = film()
    next(chunks)
    del chunks
    with Meter(sources=[both]) as meter:
        counter.value += 10
    assert meter.total.energy_j == 10 and meter.method == counter.method


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
