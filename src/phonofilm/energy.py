"""What a clip costs: seconds and joules of each stage, and the receipt that is kept with the clip.

Energy is measured where the machine lets us, and otherwise estimated; `Meter.method` says which, in words:
- NVML (NVIDIA GPUs, no privileges needed): total energy of the GPU since the driver was loaded;
- RAPL (Linux, /sys/class/powercap, often readable by root only): energy of the CPU packages, of all processes on them;
- estimated: CPU seconds of this process × watts per core.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

WATTS_PER_CORE: Final = 4.26
"""Default power of one busy logical core, in watts: the highest of the three medians and averages of SPECpower results
that Cloud Carbon Footprint gives for the servers of large clouds (Google 4.26, Azure 3.76, AWS 3.5 W per vCPU at full
load; cloudcarbonfootprint.org/docs/methodology, "Compute"). It leaves out memory, disks and cooling. Laptop and desktop
cores can draw two or three times as much."""

WATTS_VARIABLE: Final = "PHONOFILM_WATTS_PER_CORE"
"""Environment variable that overrides `WATTS_PER_CORE`."""

RAPL_ROOT: Final = Path("/sys/class/powercap")
OTHER: Final = "other"  # what happens inside a meter, but inside no stage


def watts_per_core() -> float:
    """Watts per busy core: `WATTS_VARIABLE` if it is set, else the default. ValueError if it is not positive."""
    text = os.environ.get(WATTS_VARIABLE)
    if text is None:
        return WATTS_PER_CORE
    try:
        watts = float(text)
    except ValueError:
        watts = math.nan
    if not 0 < watts < math.inf:
        raise ValueError(f"{WATTS_VARIABLE} is {text!r}; it must be a positive number of watts")
    return watts


class Source(Protocol):
    """A counter of joules that never goes back."""

    @property
    def method(self) -> str:
        """How the joules are found, in words for the receipt."""

    def joules(self) -> float:
        """Joules since an arbitrary instant."""


class CpuEstimate:
    """CPU seconds of this process, and of its children that have ended, × watts per core."""

    def __init__(self, watts: float | None = None) -> None:
        self.watts = watts_per_core() if watts is None else watts
        self.method = f"estimated: CPU seconds × {self.watts:g} W per core"

    def joules(self) -> float:
        """Joules since an arbitrary instant."""
        used = os.times()
        return self.watts * (used.user + used.system + used.children_user + used.children_system)


class Rapl:
    """The energy counters of the CPU packages; `OSError` if there is none that can be read.

    Linux power capping framework: `energy_uj` in microjoules, which wraps at `max_energy_range_uj`.
    """

    method = "measured: RAPL, whole CPU packages, with all that runs on them"

    def __init__(self, root: Path = RAPL_ROOT) -> None:
        zones = [zone for zone in sorted(root.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        if not zones:
            raise FileNotFoundError(f"no RAPL package under {root}")
        self._counters = [zone / "energy_uj" for zone in zones]
        self._ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in zones]
        self._last = [int(counter.read_text()) for counter in self._counters]
        self._total_uj = 0

    def joules(self) -> float:
        """Joules since this object was made."""
        for i, counter in enumerate(self._counters):
            now = int(counter.read_text())
            step = now - self._last[i]
            self._total_uj += step if step >= 0 else step + self._ranges[i]
            self._last[i] = now
        return self._total_uj / 1e6


class Nvml:
    """The energy counter of one GPU (Volta or later), by `nvidia-ml-py`. Any error if it cannot be had.

    The counter covers the whole board and all processes on it; `index` is NVML's, which ignores CUDA_VISIBLE_DEVICES.
    """

    def __init__(self, index: int = 0) -> None:
        self._nvml: Any = importlib.import_module("pynvml")
        self._nvml.nvmlInit()
        self._handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        self.joules()
        name = self._nvml.nvmlDeviceGetName(self._handle)
        self.method = f"measured: NVML, {name.decode() if isinstance(name, bytes) else name}"

    def joules(self) -> float:
        """Joules since the driver was loaded."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000.0


def find_sources(gpu: int | None = None) -> list[Source]:
    """The best sources here: RAPL or else the estimate for the CPU, and NVML for GPU number `gpu` if one is used."""
    sources: list[Source] = []
    if gpu is not None:
        try:
            sources.append(Nvml(gpu))
        except Exception:  # no library, no driver, no permission, no counter: each binding raises its own
            sources.append(_Unmeasured(f"GPU {gpu} not measured (NVML is not available)"))
    try:
        sources.append(Rapl())
    except (OSError, ValueError):
        sources.append(CpuEstimate())
    return sources


@dataclass(frozen=True)
class _Unmeasured:
    method: str

    def joules(self) -> float:
        return 0.0


@dataclass(frozen=True)
class Stage:
    """What one stage took."""

    seconds: float = 0.0  # wall clock
    energy_j: float = 0.0

    def __add__(self, other: Stage) -> Stage:
        return Stage(self.seconds + other.seconds, self.energy_j + other.energy_j)

    def __sub__(self, other: Stage) -> Stage:
        return Stage(self.seconds - other.seconds, self.energy_j - other.energy_j)


class Meter(AbstractContextManager["Meter"]):
    """Seconds and joules of the stages of one piece of work.

    >>> with Meter() as meter:
    ...     with meter.stage("text"):
    ...         ...
    >>> meter.stages["text"].seconds, meter.method

    A stage inside a stage pauses the outer one, and a stage entered again adds up, so the stages and "other" always
    sum to the whole. Use a meter from one thread; what other threads do meanwhile counts for the stage that is open.
    """

    def __init__(self, gpu: int | None = None, sources: list[Source] | None = None) -> None:
        self._sources = find_sources(gpu) if sources is None else sources
        self.method = "; ".join(source.method for source in self._sources)
        self.stages: dict[str, Stage] = {}
        self._open: list[str] = []
        self._last = self._now()

    def _now(self) -> Stage:
        return Stage(time.perf_counter(), sum(source.joules() for source in self._sources))

    def _settle(self) -> None:
        """Charge what passed since the last settlement to the stage that is open."""
        now = self._now()
        name = self._open[-1] if self._open else OTHER
        self.stages[name] = self.stages.get(name, Stage()) + (now - self._last)
        self._last = now

    def __enter__(self) -> Meter:
        self.stages.clear()
        self._last = self._now()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._settle()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Charge what runs inside to `name`."""
        self._settle()
        self._open.append(name)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    @property
    def total(self) -> Stage:
        """All stages together, up to the last one that ended (or to the end of the meter, once it has ended)."""
        return sum(self.stages.values(), Stage())


def versions(packages: tuple[str, ...] = ("phonofilm", "torch", "numpy", "av")) -> dict[str, str]:
    """Versions of Python and of those `packages` that are installed, without importing them."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Receipt:
    """What a clip cost and how it was made: enough to make it again, and to believe the figures."""

    request: Mapping[str, Any]  # the Request as plain JSON
    seed: int
    weights: str  # SHA-256 of the weights, hexadecimal
    seconds: Mapping[str, float]  # per stage, wall clock
    energy_j: Mapping[str, float]  # per stage, joules
    energy_method: str  # how energy was measured or estimated, in words
    versions: Mapping[str, str] = field(default_factory=versions)
    machine: str = field(default_factory=lambda: f"{platform.machine()}, {os.cpu_count()} logical cores")

    @classmethod
    def of(cls, meter: Meter, request: Mapping[str, Any], seed: int, weights: str) -> Receipt:
        """The receipt of the work that `meter` saw."""
        return cls(
            request=request,
            seed=seed,
            weights=weights,
            seconds={name: stage.seconds for name, stage in meter.stages.items()},
            energy_j={name: stage.energy_j for name, stage in meter.stages.items()},
            energy_method=meter.method,
        )

    @property
    def total_seconds(self) -> float:
        """Wall clock of all stages together."""
        return sum(self.seconds.values())

    @property
    def total_energy_j(self) -> float:
        """Joules of all stages together."""
        return sum(self.energy_j.values())

    def to_json(self) -> str:
        """Indented JSON with the totals beside the stages. ValueError if the request is not plain JSON."""
        whole = {**asdict(self), "total_seconds": self.total_seconds, "total_energy_j": self.total_energy_j}
        try:
            return json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        except TypeError as error:
            raise ValueError(f"the request of a receipt must be plain JSON: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> Receipt:
        """Read what `to_json` wrote. ValueError if it is no receipt."""
        try:
            whole = json.loads(text)
            del whole["total_seconds"], whole["total_energy_j"]
            return cls(**whole)
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"not a receipt: {error}") from error
