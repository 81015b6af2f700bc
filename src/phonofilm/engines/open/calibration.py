"""What each tier of quality costs and how near it stays to the full one, measured on the user's own weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from phonofilm.clip import Clip
from phonofilm.engines.engine import Hooks, Progress, join
from phonofilm.engines.tiers import TIERS
from phonofilm.files import home, replacing
from phonofilm.request import Quality, Request

if TYPE_CHECKING:
    from phonofilm.engines.open.engine import OpenEngine

ORDER: Final[tuple[Quality, ...]] = ("full", "standard", "draft")
assert set(ORDER) == set(TIERS)


@dataclass(frozen=True)
class Measured:
    """One tier. seconds, energy_j: of all but loading. steps: of the sampler; continued: those that were not computed.

    psnr_db, ssim: of the picture against the full tier's, same seed; None where the frames are equal. sound_db:
    log-spectral distance of the sound; None for silent models.
    """

    seconds: float
    energy_j: float
    steps: int
    continued: int
    psnr_db: float | None
    ssim: float | None
    sound_db: float | None

    def line(self, full: Measured) -> str:
        """What it costs and gives, in words."""
        told = f"{self.seconds:.1f} s, {self.energy_j:.0f} J, {self.steps} steps"
        if self.continued:
            told += f", {self.continued} of them continued"
        if self is full:
            return told
        told += f"; {full.seconds / self.seconds:.2f} times as fast as full"
        if self.psnr_db is None:
            return f"{told}, the same picture"
        told += f", picture {self.psnr_db:.1f} dB and SSIM {self.ssim:.3f} against it"
        return told if self.sound_db is None else f"{told}, sound {self.sound_db:.1f} dB away"


def calibrate(
    engine: OpenEngine, request: Request, progress: Callable[[str, Progress], None] = lambda *_: None
) -> Mapping[str, Measured]:
    """Make the same film in each tier, and write down what was measured.

    progress: gets the tier's name and how far it is. Raises what `OpenEngine.generate` raises.
    """
    found: dict[str, Measured] = {}
    whole: Clip | None = None
    engine.prepare(request)  # loading is not measured
    for name in ORDER:

        def show(step: Progress, name: str = name) -> None:
            progress(name, step)

        clip, receipt = join(engine.generate(replace(request, quality=name), Hooks(progress=show)))
        whole = whole or clip
        assert receipt is not None
        seconds, energy_j = (
            sum(v for k, v in stages.items() if k != "load") for stages in (receipt.seconds, receipt.energy_j)
        )
        found[name] = Measured(seconds, energy_j, *engine.counted, *_similar(clip, whole))
    path = _path(engine)
    record = {
        "model": engine.source.name, "machine": engine.machine.name, "plan": str(engine.plan),
        "made": datetime.now(UTC).isoformat(timespec="seconds"), "film": [request.size, request.seconds],
        "tiers": {name: asdict(measured) for name, measured in found.items()},
    }  # fmt: skip
    with replacing(path) as beside:
        beside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return found


def known(engine: OpenEngine) -> Mapping[str, Measured] | None:
    """What was measured for these weights on this machine, or None."""
    try:
        record: dict[str, Any] = json.loads(_path(engine).read_text(encoding="utf-8"))
        return {name: Measured(**values) for name, values in record["tiers"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def note(engine: OpenEngine, quality: str) -> str:
    """What is known of a tier."""
    found = known(engine)
    if found is None or quality not in found:
        return f"quality {quality} was never measured here: phonofilm calibrate {engine.source.name}"
    return f"quality {quality}: {found[quality].line(found['full'])} (measured here)"


def _similar(clip: Clip, full: Clip) -> tuple[float | None, float | None, float | None]:
    from phonofilm.codec.metrics import log_spectral_distance, psnr, ssim

    level = psnr(clip.frames, full.frames)
    picture = (None, None) if math.isinf(level) else (level, ssim(clip.frames, full.frames))
    if clip.audio is None or full.audio is None:
        return *picture, None
    made, true = (np.asarray(c.samples.mean(0), np.float32) for c in (clip.audio, full.audio))
    return *picture, log_spectral_distance(made, true)


def _path(engine: OpenEngine) -> Path:
    machine = "".join(c if c.isalnum() else "-" for c in engine.machine.name.lower())
    return home() / "calibrations" / f"{engine.source.digest[:16]}.{machine}.json"
