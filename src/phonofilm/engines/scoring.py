"""Sound for a film that has a picture: the film keeps its frames, and gets a sound of exactly its length.

An engine that can take a picture as given makes the sound. It sees the film at its own size and rate, in pieces that
are no longer than it can make. Neighbouring pieces see the same frames where they overlap, and there the sound of one
fades into that of the next one. A film that is too short is held on its last frame, and the sound is cut.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from phonofilm.clip import Audio, Clip, Frames, Samples, fit, lasting, retime, samples_in
from phonofilm.energy import Meter, Receipt
from phonofilm.engines.catalogue import capabilities
from phonofilm.engines.engine import Capabilities, Engine, Hooks, Progress, join
from phonofilm.errors import InputError
from phonofilm.request import MIN_SECONDS, Condition, Request

OVERLAP: Final = 0.5  # seconds that neighbouring pieces share at least
EDGE: Final = 0.01  # seconds of fading out where a sound is cut


def composer(model: str) -> Capabilities:
    """What a model that makes sound for a picture can do. Raises InputError that names those that can for others."""
    able = capabilities(model)
    if able.sample_rate and "video" in able.conditions:
        return able
    from phonofilm.engines.open.families import FAMILIES

    others = [family.name for family in FAMILIES if family.sound and "video" in family.conditions]
    lack = "takes no picture as given" if able.sample_rate else "makes no sound"
    raise InputError(
        f"{model} {lack}; models that make sound for a film: {', '.join(['native', *others])}", "model"
    )  # fmt: skip


def silent(model: str) -> None:
    """Raises InputError if a model makes sound itself."""
    if capabilities(model).sample_rate:
        raise InputError(f"{model} makes its own sound together with the picture: it needs no score", "model")


def wish(clip: Clip, prompt: str, *, film: str | None = None, **options: Any) -> Request:
    """The request that describes a score. film: the file that `clip` was read from; options: fields of `Request`."""
    return Request(
        prompt, seconds=max(MIN_SECONDS, clip.seconds), size=f"{clip.width}x{clip.height}", fps=clip.fps,
        conditions=(Condition("video", path=film),) if film else (), **options,
    )  # fmt: skip


def scored(clip: Clip, request: Request, engine: Engine, hooks: Hooks | None = None) -> tuple[Clip, Receipt]:
    """`clip` with its own frames and a sound for what the request says, and what that cost.

    request: as `wish` makes it; its seed is that of every piece, so that they sound alike. Sound that `clip` has is
    replaced. Raises InputError for a single picture and for what the engine cannot do, Cancelled as engines do.
    """
    hooks = hooks or Hooks()
    able = engine.capabilities
    if clip.picture:
        raise InputError("a single picture lasts no time: sound needs a film of two frames or more", "video")
    with Meter(gpu=getattr(getattr(engine, "machine", engine), "device", None)) as meter, meter.stage("condition"):
        frames = _seen(clip, able)
        length, starts = cuts(len(frames), able)
        frames = _held(frames, starts[-1] + length)
    if clip.audio is not None:
        hooks.notes.append("the sound that the film had is replaced")
    if len(starts) > 1:
        hooks.notes.append(f"made in {len(starts)} pieces of {length / able.fps:g} s that fade into each other")
    sounds: list[tuple[int, Audio]] = []
    receipts = [Receipt.of(meter, asdict(request), request.seed, "")]
    for k, start in enumerate(starts):
        piece = Clip(frames[start : start + length], able.fps)
        audio, receipt = _sound(piece, request, engine, hooks, k, len(starts))
        sounds.append((samples_in(start / able.fps, audio.sample_rate), audio))
        receipts.append(receipt)
    audio = _cut(joined(sounds), clip.seconds)
    return Clip(clip.frames, clip.fps, audio), _sum(receipts)


def cuts(frames: int, able: Capabilities) -> tuple[int, list[int]]:
    """Frames of each piece, and where each begins: as few pieces as will do, as short as will do, evenly spread."""
    low, high = able.seconds
    step = able.seconds_step or 1 / able.fps

    def frames_in(steps: float) -> int:
        return round(steps * step * able.fps)

    overlap = round(min(OVERLAP, high / 4) * able.fps)
    longest = frames_in(math.floor(high / step + 1e-6))
    count = max(1, math.ceil((frames - overlap) / (longest - overlap)))
    share = math.ceil((frames + (count - 1) * overlap) / count)
    length = frames_in(math.ceil(max(low, share / able.fps) / step - 1e-6))
    return length, [round(k * (frames - length) / (count - 1)) if k else 0 for k in range(count)]


def joined(sounds: Sequence[tuple[int, Audio]]) -> Audio:
    """Sounds, each with the sample at which it begins, in order, as one; where two overlap they are cross-faded."""
    first = sounds[0][1]
    whole = first.samples
    for start, audio in sounds[1:]:
        old, new = whole[:, start:], audio.samples
        shared = min(old.shape[1], new.shape[1])
        if float((old[:, :shared] * new[:, :shared]).sum()) < 0:
            new = -new  # turned over, which nobody hears, it does not cancel what it fades into
        faded = crossfade(old[:, :shared], new[:, :shared])
        whole = np.concatenate([whole[:, :start], faded, new[:, shared:]], axis=1)
    return Audio(whole, first.sample_rate)


def crossfade(old: Samples, new: Samples) -> Samples:
    """From `old` to `new`, both (C, N). The level stays, whatever the two have in common: where they are equal they
    come out as they are, and where they are unlike the weights' squares add up to 1 (equal power)."""
    size = float(np.sqrt(np.square(old).sum() * np.square(new).sum()))
    alike = max(0.0, float((old * new).sum()) / size) if size > 0 else 0.0
    count = old.shape[1]
    weight = np.sin(np.pi / 2 * (np.arange(count) + 0.5) / max(1, count)) ** 2
    power = (1 - weight) ** 2 + weight**2 + 2 * alike * weight * (1 - weight)
    mixed = ((1 - weight) * old + weight * new) / np.sqrt(power)
    faded: Samples = np.clip(mixed, -1, 1).astype(np.float32)
    return faded


def _seen(clip: Clip, able: Capabilities) -> Frames:
    """The frames as the engine sees them: its rate, and of its sizes the one of the nearest shape."""
    shape = clip.width / clip.height
    size = min(able.sizes, key=lambda size: abs(math.log(shape * size[1] / size[0])))
    frames, fps = clip.frames, clip.fps
    if fps > able.fps:  # fewer frames are to be scaled
        frames, fps = retime(frames, fps, able.fps), able.fps
    frames = retime(fit(frames, *size), fps, able.fps)
    return _held(frames, math.ceil(clip.seconds * able.fps - 1e-6))


def _held(frames: Frames, count: int) -> Frames:
    """At least `count` frames; the last one is held."""
    missing = max(0, count - len(frames))
    return np.concatenate([frames, np.repeat(frames[-1:], missing, 0)]) if missing else frames


def _sound(piece: Clip, request: Request, engine: Engine, hooks: Hooks, k: int, count: int) -> tuple[Audio, Receipt]:
    """The sound of piece k. Engines read what is given from files; a folder of PNGs loses nothing."""
    from phonofilm.media import write

    def report(p: Progress) -> None:
        hooks.progress(Progress(p.stage, k * p.total + p.done, count * p.total))

    watch = Hooks(progress=report, cancelled=hooks.cancelled)
    with tempfile.TemporaryDirectory(prefix="phonofilm.") as name:
        folder = Path(name) / "piece"
        write(piece, folder)
        part = replace(
            request, seconds=piece.seconds, size=f"{piece.width}x{piece.height}", fps=None,
            conditions=(Condition("video", path=str(folder)),),
        )  # fmt: skip
        made, receipt = join(engine.generate(part, watch))
    hooks.notes.extend(note for note in watch.notes if note not in hooks.notes)
    assert made.audio is not None and receipt is not None, engine
    return lasting(made.audio, piece.seconds), receipt


def _cut(audio: Audio, seconds: float) -> Audio:
    """Exactly as long as the film; faded out where something is cut off."""
    count = samples_in(seconds, audio.sample_rate)
    if audio.samples.shape[1] <= count:
        return lasting(audio, seconds)
    samples = audio.samples[:, :count].copy()
    edge = min(count, samples_in(EDGE, audio.sample_rate))
    samples[:, count - edge :] *= np.linspace(1, 0, edge, dtype=np.float32)
    return Audio(samples, audio.sample_rate)


def _sum(receipts: Sequence[Receipt]) -> Receipt:
    """All work together: the request of the first, the weights of the last."""

    def total(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
        found: Counter[str] = Counter()
        for part in parts:
            found.update(part)
        return dict(found)

    seconds, energy = total([r.seconds for r in receipts]), total([r.energy_j for r in receipts])
    last = receipts[-1]
    return replace(
        receipts[0], weights=last.weights, seconds=seconds, energy_j=energy, energy_method=last.energy_method
    )


def with_score(made: Receipt, score: Receipt, model: str) -> Receipt:
    """The receipt of a film whose sound another model made: that one's work is the stage "score"."""
    return replace(
        made,
        seconds={**made.seconds, "score": score.total_seconds},
        energy_j={**made.energy_j, "score": score.total_energy_j},
        versions={**made.versions, "score": f"{model}, weights {score.weights}"},
    )
