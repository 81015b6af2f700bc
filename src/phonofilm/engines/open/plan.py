"""How a model fits into this machine: decided before anything is loaded, said, and stepped down from when it was wrong.

Sizes are bytes. What a step needs beside the weights is an estimate by rule of thumb, and said to be one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from phonofilm.engines.open.families import Family
from phonofilm.engines.open.source import Source
from phonofilm.errors import InputError

Precision = Literal["fp32", "bf16", "int8"]
Offload = Literal["none", "model", "group"]
PRECISIONS: Final = ("fp32", "bf16", "int8")
OFFLOADS: Final = ("none", "model", "group")
BYTES: Final = {"fp32": 4.0, "bf16": 2.0, "int8": 1.05}  # of a parameter; int8 has scales beside it
QUANTISED: Final = ("transformer", "text_encoder")  # what begins with this is quantised: where the parameters are
SHARE: Final = 0.92  # of the free memory that may be planned with
GIB: Final = 2**30
RUNTIME: Final = 0.6 * GIB  # of the libraries themselves, once loaded
PATCH_AREA: Final = 16 * 16  # pixels of a token, about
WIDE: Final = 3072 * 2 * 40  # bytes of activations of a token in a step: a wide stream, forty times in bf16
DECODED: Final = 512  # bytes of activations of a pixel of a frame in the decoder
TILE: Final = 512 * 512  # pixels of a tile in a tiled decoder
AT_ONCE: Final = 8  # frames that a decoder has under work, about


@dataclass(frozen=True)
class Machine:
    """Where it runs. device: "cpu" or "cuda"; free: of the device; memory: of the computer; bf16: is it fast."""

    device: str
    name: str
    free: float
    memory: float
    bf16: bool = True


@dataclass(frozen=True)
class Plan:
    """precision: of transformer and text encoder. offload: parts wait in the computer's memory ("model": whole parts,
    "group": layer by layer). tiled: the picture is decoded in tiles. peak: expected on the device."""

    device: str
    precision: Precision
    offload: Offload
    tiled: bool
    peak: float

    def __str__(self) -> str:
        offload = {"none": "", "model": ", parts take turns", "group": ", layers take turns"}[self.offload]
        tiled = ", decoded in tiles" if self.tiled else ""
        return f"{self.device}, {self.precision}{offload}{tiled}, about {self.peak / GIB:.1f} GiB"


def here() -> Machine:
    """This machine, with what is free of its memory now."""
    import torch

    from phonofilm.precision import native_type

    memory = available()
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return Machine("cuda", torch.cuda.get_device_name(), float(free), memory)
    fast = native_type("cpu") == torch.bfloat16
    return Machine("cpu", f"{os.cpu_count()} cores", memory, memory, fast)


def available(root: Path = Path("/")) -> float:
    """Bytes of memory that this process may still take: what the kernel calls available, within the cgroup's limit."""
    free = float("inf")
    try:
        lines = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines() if ":" in line)
        free = 1024.0 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        free = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        limit = (root / "sys/fs/cgroup/memory.max").read_text().strip()
        used = (root / "sys/fs/cgroup/memory.current").read_text().strip()
        if limit != "max":
            free = min(free, float(int(limit) - int(used)))
    except (OSError, ValueError):
        pass
    return free


def plans(source: Source, pixels: tuple[int, int], frames: int, machine: Machine) -> Iterator[Plan]:
    """All plans, the fastest first."""
    precisions: tuple[Precision, ...] = ("bf16", "int8") if machine.bf16 else ("fp32", "bf16", "int8")
    offloads: tuple[Offload, ...] = OFFLOADS if machine.device != "cpu" else ("none",)
    for offload in offloads:
        for precision in precisions:
            for tiled in (False, True):
                plan = Plan(machine.device, precision, offload, tiled, 0.0)
                yield replace(plan, peak=peak(source, pixels, frames, plan))


def peak(source: Source, pixels: tuple[int, int], frames: int, plan: Plan) -> float:
    """Bytes expected at most on the device: the weights that are there at once, and what works on them."""
    weights = {part.name: part.values * _bytes(part.name, plan.precision) for part in source.parts}
    area = float(pixels[0] * pixels[1])
    tokens = area / PATCH_AREA * max(1.0, frames / 4)
    decoding = DECODED * (min(area, TILE) if plan.tiled else area) * min(frames, AT_ONCE)
    working = max(tokens * WIDE, decoding) + 12 * area * frames  # the film itself, as float32
    if plan.offload == "none":
        held = sum(weights.values())
    elif plan.offload == "model":
        held = max(weights.values())
    else:
        held = 0.1 * max(weights.values())
    return held + working + (RUNTIME if plan.device == "cpu" else 0.0)


def choose(
    source: Source,
    pixels: tuple[int, int],
    frames: int,
    machine: Machine,
    *,
    precision: Precision | None = None,
    offload: Offload | None = None,
    tiled: bool | None = None,
) -> list[Plan]:
    """The plans that fit, the fastest first: the first is to be tried, the others are stepped down to.

    precision, offload, tiled: what the user has decided. Raises InputError if nothing fits.
    """
    if offload not in (None, "none") and machine.device == "cpu":
        raise InputError(f"offload {offload!r} needs a GPU beside the computer's memory; here is none")
    offloads: tuple[Offload, ...] = OFFLOADS if machine.device != "cpu" else ("none",)
    every = [Plan(machine.device, p, o, t, 0.0) for o in offloads for p in PRECISIONS for t in (False, True)]
    decided = {"precision": precision, "offload": offload, "tiled": tiled}
    decided = {name: value for name, value in decided.items() if value is not None}
    usual = list(plans(source, pixels, frames, machine))
    if any(all(getattr(plan, name) == value for name, value in decided.items()) for plan in usual):
        every = usual
    matching = [plan for plan in every if all(getattr(plan, name) == value for name, value in decided.items())]
    matching = [replace(plan, peak=peak(source, pixels, frames, plan)) for plan in matching]
    fitting = [plan for plan in matching if plan.peak <= SHARE * machine.free]
    if not fitting:
        least = min(matching, key=lambda plan: plan.peak)
        raise InputError(
            f"{source.name} needs about {least.peak / GIB:.1f} GiB at {pixels[0]}x{pixels[1]}, {frames} frames even as "
            f"{least}; {machine.name} has {machine.free / GIB:.1f} GiB free: ask for a smaller size or fewer seconds"
        )
    return fitting


def rough(family: Family, billions: float, machine: Machine) -> float:
    """Bytes that a model of so many billions of parameters needs here, before it is fetched."""
    return billions * 1e9 * (BYTES["bf16"] if machine.bf16 else BYTES["fp32"]) + family.size[0] * family.size[1] * 4096


def _bytes(part: str, precision: Precision) -> float:
    if precision == "int8" and not part.startswith(QUANTISED):
        return BYTES["bf16"]
    return BYTES[precision]
