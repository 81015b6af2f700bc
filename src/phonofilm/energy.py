"""What a clip costs: seconds and joules of each stage, and the receipt that is kept with the clip.

Energy is measured where the machine lets us, and otherwise estimated; `Meter.method` says which, in words:
- NVML (NVIDIA GPUs, no privileges needed): total energy of the GPU since the driver was loaded;
- RAPL (Linux, /sys/class/powercap, often readable by root only): energy of the CPU packages, of all processes on them;
- estimated: CPU seconds of this process × watts per core.

None of these counters tells whose the joules were. So what one counts is shared equally, interval by interval, among
the meters that are open in this process: films that are made side by side add up to what was spent.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

from phonofilm.errors import InputError

WATTS_PER_CORE: Final = 4.26
"""Default power of one busy logical core, in watts: the highest of the three medians and averages of SPECpower results
that Cloud Carbon Footprint gives for the servers of large clouds (Google 4.26, Azure 3.76, AWS 3.5 W per vCPU at full
load; cloudcarbonfootprint.org/docs/methodology, "Compute"). It leaves out memory, disks and cooling. Laptop and desktop
cores can draw two or three times as much."""

WATTS_VARIABLE: Final = "PHONOFILM_WATTS_PER_CORE"
"""Environment variable that overrides `WATTS_PER_CORE`."""

RAPL_ROOT: Final = Path("/sys/class/powercap")
OTHER: Final = "other"  # what happens inside a meter, but inside no stage
BESIDE: Final = ", shared equally with what else was made at the same time"  # how the method says so
BROKEN: Final = ", which could not always be read"


def watts_per_core() -> float:
    """Watts per busy core: `WATTS_VARIABLE` if it is set, else the default. InputError if it is not positive."""
    text = os.environ.get(WATTS_VARIABLE)
    if text is None:
        return WATTS_PER_CORE
    try:
        watts = float(text)
    except ValueError:
        watts = math.nan
    if not 0 < watts < math.inf:
        raise InputError(f"{WATTS_VARIABLE} is {text!r}; it must be a positive number of watts")
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

    The counter covers the whole board and all processes on it. index: torch's number of the CUDA device.
    """

    def __init__(self, index: int = 0) -> None:
        self._nvml: Any = importlib.import_module("pynvml")
        self._nvml.nvmlInit()
        self._handle = _handle(self._nvml, index)
        self.joules()
        name = self._nvml.nvmlDeviceGetName(self._handle)
        self.method = f"measured: NVML, {name.decode() if isinstance(name, bytes) else name}, with all that runs on it"

    def joules(self) -> float:
        """Joules since the driver was loaded."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000.0


def _handle(nvml: Any, index: int) -> Any:
    """NVML's handle of the CUDA device that torch numbers `index`.

    NVML counts every GPU, in the order of the bus; CUDA those of CUDA_VISIBLE_DEVICES, in an order of its own. So the
    GPU is found by its UUID, else by its place on the bus (a part of a GPU, MIG, has another UUID), and by the number
    only where torch tells neither. Raises LookupError where that number may be another GPU's.
    """
    told = importlib.import_module("torch").cuda.get_device_properties(index)
    if (uuid := getattr(told, "uuid", None)) is not None:
        try:
            return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{str(uuid).removeprefix('GPU-')}")
        except nvml.NVMLError:
            pass
    if (bus := getattr(told, "pci_bus_id", None)) is not None:
        domain, device = getattr(told, "pci_domain_id", 0), getattr(told, "pci_device_id", 0)
        return nvml.nvmlDeviceGetHandleByPciBusId(f"{domain:08x}:{bus:02x}:{device:02x}.0")
    if os.environ.get("CUDA_VISIBLE_DEVICES"):
        raise LookupError("neither UUID nor place on the bus is known, and CUDA_VISIBLE_DEVICES renumbers")
    return nvml.nvmlDeviceGetHandleByIndex(index)


def find_sources(gpu: object = None, processes: int = 1) -> list[Source]:
    """The best sources here: RAPL or else the estimate for the CPU, and NVML for the GPU if one is used.

    gpu: the device that is computed on, or its name, or torch's number of a CUDA device; None, as the CPU: no GPU.
    processes: how many make the film together, each on a GPU of its own; this one's alone are counted. What is not
    counted has a source of no joules whose method says so. The same counter is the same object at each call.
    """
    name = f"cuda:{gpu}" if isinstance(gpu, int) else str(gpu or "cpu")
    kind, _, number = name.partition(":")
    sources: list[Source] = []
    with _FINDING:
        if kind == "cuda":
            sources.append(_gpu(number))
        elif kind != "cpu":
            sources.append(_Uncounted(f"the device {kind} is not counted"))
        if processes > 1:
            sources.append(_Uncounted(f"the GPUs of {processes - 1} more processes are not counted"))
        try:
            sources.append(_rapl())
        except (OSError, ValueError):
            sources.append(_cpu(watts_per_core()))
    return sources


def _gpu(number: str) -> Source:
    """The counter of a CUDA device; number: torch's, empty for the current one."""
    try:
        number = number or f"{importlib.import_module('torch').cuda.current_device()}"
        return _nvml(int(number))
    except ModuleNotFoundError as error:
        lacking = "nvidia-ml-py" if error.name == "pynvml" else error.name
        return _Uncounted(f"GPU {number or 0} is not counted ({lacking} is not installed)")
    except Exception:  # no driver, no permission, no such GPU, no counter: each binding raises its own
        return _Uncounted(f"GPU {number or 0} is not counted (NVML cannot read it)")


_FINDING: Final = threading.Lock()  # so that two threads find one object


@cache
def _nvml(index: int) -> Shared:
    return Shared(Nvml(index))


@cache
def _rapl() -> Shared:
    return Shared(Rapl())


@cache
def _cpu(watts: float) -> Shared:
    return Shared(CpuEstimate(watts))


@dataclass(frozen=True)
class _Uncounted:
    method: str

    def joules(self) -> float:
        return 0.0


@dataclass(eq=False)
class _Account:
    """What one meter is charged of one counter."""

    joules: float = 0.0
    beside: bool = False  # whether others were open at the same time
    broken: bool = False  # whether the counter failed: no film is lost for that


class Shared:
    """A counter that many read: each interval of it is shared equally among the accounts that are open. Thread-safe.

    An interval ends whenever anybody opens, reads or closes an account; one in which none is open is nobody's.
    """

    def __init__(self, source: Source) -> None:
        self._source, self._last = source, 0.0
        self._open: list[_Account] = []
        self._lock = threading.RLock()  # not Lock: the garbage collector may close a meter in the midst of a reading,
        self._reading = False  # and must not begin another

    @property
    def method(self) -> str:
        """How the joules are found, in words for the receipt."""
        return self._source.method

    def joules(self) -> float:
        """Joules since an arbitrary instant, whosever they are."""
        with self._lock:
            return self._source.joules()

    def open(self) -> _Account:
        """A new account, of no joules yet."""
        account = _Account()
        with self._lock:
            self._settle()
            self._open.append(account)
            if len(self._open) > 1:
                for one in self._open:
                    one.beside = True
        return account

    def charged(self, account: _Account) -> float:
        """Joules of an account, up to now or to when it was closed."""
        with self._lock:
            self._settle()
            return account.joules

    def close(self, account: _Account) -> None:
        """Charge an account no more."""
        with self._lock:
            self._settle()
            if account in self._open:
                self._open.remove(account)

    def _settle(self) -> None:
        if self._reading:
            return
        self._reading = True
        accounts = tuple(self._open)
        try:
            now = self._source.joules()
            spent, self._last = now - self._last, now
            for account in accounts:
                account.joules += spent / len(accounts)
        except Exception:  # each binding raises its own
            for account in accounts:
                account.broken = True
        finally:
            self._reading = False


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
    sum to the whole. Use a meter from one thread; what other threads do meanwhile counts for the stage that is open,
    less what is charged to the meters that are open beside this one.

    gpu, processes: as for `find_sources`, which finds the `sources` that are not given.
    """

    def __init__(self, gpu: object = None, sources: Sequence[Source] | None = None, *, processes: int = 1) -> None:
        found = find_sources(gpu, processes) if sources is None else sources
        self._counters = [source if isinstance(source, Shared) else Shared(source) for source in found]
        self._accounts: list[_Account] = [_Account() for _ in self._counters]
        self.stages: dict[str, Stage] = {}
        self._open: list[str] = []
        self._last = self._now()

    @property
    def method(self) -> str:
        """How the joules were found, in words; of those that were shared with other meters up to now it says so."""
        return "; ".join(
            counter.method + (BESIDE if account.beside else "") + (BROKEN if account.broken else "")
            for counter, account in zip(self._counters, self._accounts, strict=True)
        )

    def _now(self) -> Stage:
        pairs = zip(self._counters, self._accounts, strict=True)
        return Stage(time.perf_counter(), sum(counter.charged(account) for counter, account in pairs))

    def _settle(self) -> None:
        """Charge what passed since the last settlement to the stage that is open."""
        now = self._now()
        name = self._open[-1] if self._open else OTHER
        self.stages[name] = self.stages.get(name, Stage()) + (now - self._last)
        self._last = now

    def __enter__(self) -> Meter:
        self.stages.clear()
        self._accounts = [counter.open() for counter in self._counters]
        self._last = self._now()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._settle()
        finally:
            for counter, account in zip(self._counters, self._accounts, strict=True):
                counter.close(account)

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
