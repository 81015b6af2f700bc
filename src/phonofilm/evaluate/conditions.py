"""What is given binds: images, the beginning of a clip, a picture track, a soundtrack; and the matcher finds its clip.

Every condition is taken from a true clip, so that what follows from it can be measured against truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from phonofilm.clip import NATIVE_FPS, NATIVE_RATE, Audio, Clip
from phonofilm.codec.metrics import psnr
from phonofilm.evaluate.ledger import Ledger
from phonofilm.evaluate.run import clip_of
from phonofilm.evaluate.score import judge
from phonofilm.evaluate.shared import spread
from phonofilm.evaluate.sync import lag_summary
from phonofilm.playhouse.captions import describe_with_claims
from phonofilm.playhouse.casting import draw_scene
from phonofilm.playhouse.playhouse import film
from phonofilm.playhouse.scene import FACES, Scene
from phonofilm.text.matcher import recall_at_1

if TYPE_CHECKING:
    from phonofilm.engines.native import NativeEngine

FIRST_SEED: Final = 50_000  # scenes of the training-like split that `cases` does not use
SECONDS: Final = 4.0
SEAM: Final = 32  # frames of a clip that is to be continued: 2 s
RIVALS: Final = 64  # candidates among which the matcher finds the right one
EXACT_DB: Final = 60.0  # what a frame counts for that is the given one, whose PSNR is infinite
MEASURES: Final = {  # of a clip
    "seed", "first", "last", "seam", "seam_true", "level", "whole", "video", "audio", "lips",
}  # fmt: skip
NEAR: Final = 0.1  # seconds to each side of a seam over which the level is taken


def measure_conditions(
    engine: NativeEngine,
    count: int,
    path: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Measure each condition on `count` true clips of 4 s; plain JSON.

    images: dB that the first and the last frame lose against the codec (mean, and the share that loses at most 1 dB).
    continuation: at the seam, the change of picture over that of its neighbours (1: none to be seen) and the change of
    level in dB beyond that of truth; the share of clips in which an actor vanishes, swaps or teleports.
    video: lag of the sound behind blows of the given picture. audio: lag behind lips, and behind blows, of the made
    picture. matcher: recall at 1 of 64, both ways.

    path: a file in which each clip's measures are kept, so that the same call goes on where it was cut off.
    progress(done, total): clips. workers: processes that share them. Raises InputError where the file is of something
    else, OutputError where it cannot be written.
    """
    from phonofilm.engines.native import NativeEngine

    about = {"weights": engine.digest, "defaults": asdict(engine.defaults)}
    ledger = None if path is None else Ledger(path, about, MEASURES)
    known = {} if ledger is None else {entry["seed"]: entry for entry in ledger.entries}
    seeds = range(FIRST_SEED, FIRST_SEED + count)
    missing = [seed for seed in seeds if seed not in known]
    there = partial(NativeEngine, engine.folder, "cpu", engine.defaults)
    for entry in spread(measure_clip, missing, engine, there, workers):
        known[entry["seed"]] = entry if ledger is None else ledger.add([entry])[0]
        if progress is not None:
            progress(sum(seed in known for seed in seeds), count)
    return _summary([known[seed] for seed in seeds]) | {"matcher": matcher_recall(engine)}


def measure_clip(engine: NativeEngine, seed: int) -> dict[str, Any]:
    """What is made under each condition that the clip of one seed gives: see `MEASURES`; lags in ms."""
    from phonofilm.request import Request

    scene, prompt, claims, true = true_clip(seed)

    def make(given: Mapping[str, Clip], seconds: float = SECONDS) -> Clip:
        return engine.make(Request(prompt, seconds=seconds, seed=seed), given)

    found: dict[str, Any] = {"seed": seed}
    images = {"first": _still(true, 0), "last": _still(true, -1)}
    made = make(images)
    for role, at in (("first", 0), ("last", -1)):
        coded = engine.codec.decode(engine.codec.encode(images[role])[0], picture=True).frames[0]
        found[role] = psnr(coded, true.frames[at]) - min(psnr(made.frames[at], true.frames[at]), EXACT_DB)
    joined = make({"continue": _cut(true, 0, SEAM)}, SECONDS - SEAM / NATIVE_FPS)
    found["seam"], found["seam_true"] = seam(joined.frames), seam(true.frames)
    found["level"] = level_step(joined) - level_step(true)
    verdict = judge(joined, scene, claims)
    found["whole"] = all(right for row, _, right in verdict.rows if row == "lasting")
    found["video"] = [lag for _, lag in judge(make({"video": _mute(true)}), scene, claims).blow_lags]
    shown = judge(make({"audio": true}), scene, claims)
    found["audio"] = [lag for _, lag in shown.blow_lags]
    found["lips"] = shown.lip_lags if any(a.kind in FACES for a in scene.actors) else []
    return found


def _summary(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def every(name: str) -> NDArray[np.float64]:
        return np.asarray([entry[name] for entry in entries], np.float64)

    def lags(name: str) -> dict[str, float]:
        return lag_summary([math.nan if lag is None else lag for entry in entries for lag in entry[name]])

    return {
        "clips": len(entries),
        "images": {
            role: {"mean_loss_db": float(every(role).mean()), "within_1_db": float((every(role) <= 1).mean())}
            for role in ("first", "last")
        },
        "continuation": {
            "picture_median": float(np.median(every("seam"))), "picture_p90": float(np.percentile(every("seam"), 90)),
            "true_p90": float(np.percentile(every("seam_true"), 90)),
            "level_p90_db": float(np.percentile(np.abs(every("level")), 90)), "lasting": float(every("whole").mean()),
        },
        "video": lags("video"),
        "audio": {"lips": lags("lips"), "blows": lags("audio")},
    }  # fmt: skip


def true_clip(seed: int, seconds: float = SECONDS) -> tuple[Scene, str, frozenset[str], Clip]:
    """A scene of the training-like split, its dense caption and its claims, and the film of it."""
    scene = draw_scene(seed, "train_like", seconds=seconds)
    prompt, claims = describe_with_claims(scene, seed, style="dense")
    shot = film([scene], captions=[prompt])
    return scene, prompt, claims, clip_of(shot.frames[0].numpy(), shot.audio[0].numpy())


def seam(frames_THWC: NDArray[np.uint8], at: int = SEAM) -> float:
    """Root mean square change from the frame before `at` to the one at it, over that of the neighbouring changes.

    1 grey value is added to both, so that the noise of still pictures is no jump.
    """
    some = frames_THWC[at - 3 : at + 3].astype(np.float64)
    change = np.sqrt(np.mean(np.diff(some, axis=0) ** 2, axis=(1, 2, 3))) + 1
    return float(change[2] / np.mean(change[[0, 1, 3, 4]]))


def level_step(clip: Clip, at: int = SEAM) -> float:
    """Level of the 0.1 s after the frame `at` over that before it, dB; silence counts as -60 dBFS."""
    assert clip.audio is not None
    middle, reach = at * NATIVE_RATE // NATIVE_FPS, round(NEAR * NATIVE_RATE)
    samples = clip.audio.samples[0].astype(np.float64)
    before, after = samples[middle - reach : middle], samples[middle : middle + reach]
    levels = [10 * np.log10(np.mean(part**2) + 1e-6) for part in (before, after)]
    return float(levels[1] - levels[0])


def matcher_recall(engine: NativeEngine, groups: int = 2) -> dict[str, float]:
    """Share of `groups` times 64 true clips that find their caption among 64, and of captions that find their clip.

    The clips go through the codec, as all that is matched does.
    """
    by_text: list[float] = []
    by_clip: list[float] = []
    for group in range(groups):
        seeds = range(FIRST_SEED + 10_000 + group * RIVALS, FIRST_SEED + 10_000 + (group + 1) * RIVALS)
        shots = [true_clip(seed, 3.0) for seed in seeds]
        prompts = [prompt for _, prompt, _, _ in shots]
        found = recall_at_1(torch.from_numpy(engine.match_all(prompts, [clip for _, _, _, clip in shots])), prompts)
        by_text.append(found[0])
        by_clip.append(found[1])
    return {"n": groups * RIVALS, "text_to_clip": float(np.mean(by_text)), "clip_to_text": float(np.mean(by_clip))}


def conditions_markdown(found: Mapping[str, Any]) -> list[str]:
    """Lines of a table."""
    images, onward, video, audio, matcher = (
        found[k] for k in ("images", "continuation", "video", "audio", "matcher")
    )  # fmt: skip

    def lag(summary: Mapping[str, float]) -> str:
        if "median_abs_ms" not in summary:
            return f"nothing to measure (n {summary['n']})"
        return f"median {summary['median_abs_ms']:.1f} ms, p90 {summary['p90_abs_ms']:.1f} ms (n {summary['n']})"

    rows: Sequence[tuple[str, str]] = (
        *((f"{role} image, loss against the codec", f"mean {v['mean_loss_db']:.1f} dB, "
           f"{100 * v['within_1_db']:.0f} % within 1 dB") for role, v in images.items()),
        ("continuation, change of picture at the seam (p90 of true clips)",
         f"median {onward['picture_median']:.2f}, p90 {onward['picture_p90']:.2f} times its neighbours "
         f"({onward['true_p90']:.2f})"),
        ("continuation, step of level beyond truth, p90", f"{onward['level_p90_db']:.1f} dB"),
        ("continuation, nothing vanishes, swaps or teleports", f"{100 * onward['lasting']:.0f} %"),
        ("video → sound, blows", lag(video)),
        ("sound → video, lips", lag(audio["lips"])),
        ("sound → video, blows", lag(audio["blows"])),
        (f"matcher, recall at 1 of {RIVALS} (n {matcher['n']})", f"text → clip {100 * matcher['text_to_clip']:.0f} %, "
         f"clip → text {100 * matcher['clip_to_text']:.0f} %"),
    )  # fmt: skip
    head = [
        "",
        f"## Conditions, {found['clips']} square clips of {SECONDS:g} s, default settings",
        "",
        "| | |",
        "|---|---|",
    ]
    return [*head, *(f"| {title} | {value} |" for title, value in rows)]


def _still(clip: Clip, at: int) -> Clip:
    return Clip(np.ascontiguousarray(clip.frames[[at]]), float(NATIVE_FPS))


def _mute(clip: Clip) -> Clip:
    return Clip(clip.frames, clip.fps)


def _cut(clip: Clip, first: int, last: int) -> Clip:
    assert clip.audio is not None
    step = NATIVE_RATE // NATIVE_FPS
    sound = Audio(np.ascontiguousarray(clip.audio.samples[:, first * step : last * step]), NATIVE_RATE)
    return Clip(np.ascontiguousarray(clip.frames[first:last]), clip.fps, sound)
