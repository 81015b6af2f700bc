"""What is given binds: images, the beginning of a clip, a picture track, a soundtrack; and the matcher finds its clip.

Every condition is taken from a true clip, so that what follows from it can be measured against truth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from phonofilm.clip import NATIVE_FPS, NATIVE_RATE, Audio, Clip
from phonofilm.codec.metrics import psnr
from phonofilm.evaluate.run import clip_of
from phonofilm.evaluate.score import judge
from phonofilm.evaluate.sync import lag_summary
from phonofilm.files import replacing
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
NEAR: Final = 0.1  # seconds to each side of a seam over which the level is taken


def measure_conditions(
    engine: NativeEngine, count: int, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Measure each condition on `count` true clips of 4 s; plain JSON.

    images: dB that the first and the last frame lose against the codec (mean, and the share that loses at most 1 dB).
    continuation: at the seam, the change of picture over that of its neighbours (1: none to be seen) and the change of
    level in dB beyond that of truth; the share of clips in which an actor vanishes, swaps or teleports.
    video: lag of the sound behind blows of the given picture. audio: lag behind lips, and behind blows, of the made
    picture. matcher: recall at 1 of 64, both ways.
    """
    from phonofilm.request import Request

    jobs = 4 * count
    done = 0
    found: dict[str, list[Any]] = {}

    def note(name: str, value: Any) -> None:
        found.setdefault(name, []).append(value)

    def make(prompt: str, seed: int, seconds: float, given: Mapping[str, Clip]) -> Clip:
        nonlocal done
        made = engine.make(Request(prompt, seconds=seconds, seed=seed), given)
        done += 1
        if progress is not None:
            progress(done, jobs)
        return made

    for seed in range(FIRST_SEED, FIRST_SEED + count):
        scene, prompt, claims, true = true_clip(seed)
        images = {"first": _still(true, 0), "last": _still(true, -1)}
        made = make(prompt, seed, SECONDS, images)
        for role, at in (("first", 0), ("last", -1)):
            coded = engine.codec.decode(engine.codec.encode(images[role])[0], picture=True).frames[0]
            there = min(psnr(made.frames[at], true.frames[at]), EXACT_DB)
            note(role, psnr(coded, true.frames[at]) - there)
        beginning = _cut(true, 0, SEAM)
        joined = make(prompt, seed, SECONDS - SEAM / NATIVE_FPS, {"continue": beginning})
        note("seam", seam(joined.frames))
        note("seam_true", seam(true.frames))
        note("level", level_step(joined) - level_step(true))
        verdict = judge(joined, scene, claims)
        note("whole", all(right for row, _, right in verdict.rows if row == "lasting"))
        sounded = judge(make(prompt, seed, SECONDS, {"video": _mute(true)}), scene, claims)
        found.setdefault("video", []).extend(lag for _, lag in sounded.blow_lags)
        shown = judge(make(prompt, seed, SECONDS, {"audio": true}), scene, claims)
        found.setdefault("audio", []).extend(lag for _, lag in shown.blow_lags)
        if any(a.kind in FACES for a in scene.actors):
            found.setdefault("lips", []).extend(shown.lip_lags)
    return {
        "clips": count,
        "images": {
            role: {"mean_loss_db": float(np.mean(v)), "within_1_db": float(np.mean(np.asarray(v) <= 1))}
            for role in ("first", "last")
            if (v := found[role])
        },
        "continuation": {
            "picture_median": float(np.median(found["seam"])), "picture_p90": float(np.percentile(found["seam"], 90)),
            "true_p90": float(np.percentile(found["seam_true"], 90)),
            "level_p90_db": float(np.percentile(np.abs(found["level"]), 90)), "lasting": float(np.mean(found["whole"])),
        },
        "video": lag_summary(found.get("video", [])),
        "audio": {"lips": lag_summary(found.get("lips", [])), "blows": lag_summary(found.get("audio", []))},
        "matcher": matcher_recall(engine),
    }  # fmt: skip


def measured_conditions(
    engine: NativeEngine, count: int, path: Path | None, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """`measure_conditions`, or what is kept of it in the file `path`, if that is of the same weights and settings."""
    about = {"weights": engine.digest, "defaults": asdict(engine.defaults), "clips": count}
    if path is not None and path.exists():
        with suppress(ValueError, AttributeError):
            kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if kept.get("about") == about:
                return dict(kept["found"])
    found = measure_conditions(engine, count, progress)
    if path is not None:
        with replacing(path) as beside:
            beside.write_text(json.dumps({"about": about, "found": found}, indent=1) + "\n", encoding="utf-8")
    return found


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
        ("continuation, change of picture at the seam (true clips)", f"median {onward['picture_median']:.2f}, p90 "
         f"{onward['picture_p90']:.2f} times its neighbours ({onward['true_p90']:.2f})"),
        ("continuation, step of level beyond truth, p90", f"{onward['level_p90_db']:.1f} dB"),
        ("continuation, nothing vanishes, swaps or teleports", f"{100 * onward['lasting']:.0f} %"),
        ("video → sound, blows", lag(video)),
        ("sound → video, lips", lag(audio["lips"])),
        ("sound → video, blows", lag(audio["blows"])),
        (f"matcher, recall at 1 of {RIVALS} (n {matcher['n']})", f"text → clip {100 * matcher['text_to_clip']:.0f} %, "
         f"clip → text {100 * matcher['clip_to_text']:.0f} %"),
    )  # fmt: skip
    head = ["", f"## Conditions, {found['clips']} clips of {SECONDS:g} s", "", "| | |", "|---|---|"]
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
