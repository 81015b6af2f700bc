"""What moves, and when it strikes: sub-frame instants of contacts, swings and strokes, and the opening of mouths.

Letters: T frames, K x L window about an actor, in its own coordinates (u right, v up, radius 1).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from phonofilm.evaluate.background import Frames, View

Floats = NDArray[np.float64]

DESCENT: Final = 0.055  # world units of fall before a contact that counts
FREE: Final = 0.03  # world units above the floor from which a fall is fitted
USUAL_PULL: Final = 0.046  # world units per frame squared, where too little is in the air to tell
LEVER: Final = 0.57  # radii by which the middle of a bell swings to the side
SWING: Final = 0.4  # share of that which counts as a swing
HALF_SWINGS: Final = (0.33, 0.37, 0.42, 0.47, 0.52, 0.57, 0.62, 0.68, 0.75)  # seconds from side to side
STICK: Final = (84.0, 58.0, 40.0)  # the colour of a drum stick's tip
STICK_RANGE: Final = (0.3, 1.75)  # v between which the tip is looked for
STROKE: Final = 0.45  # pose below which the stick has come down
MOUTHS: Final = {"woman": -0.16, "man": -0.16, "robot": -0.22}  # v of the middle of the mouth


def window(frames: Frames, view: View, x: Floats, y: Floats, r: Floats, u: Floats, v: Floats) -> NDArray[np.float32]:
    """Bilinear crops (T, len(v), len(u), 3) about world points x, y (T,) with radius r (T,), v from top to bottom."""
    count, height, width = frames.shape[:3]
    zoom = view.zoom * view.scale
    col = width / 2 + (x - view.pan) * zoom
    row = height / 2 - y * zoom
    c = np.clip(col[:, None] + (r * zoom)[:, None] * u - 0.5, 0, width - 1.001)
    q = np.clip(row[:, None] - (r * zoom)[:, None] * v - 0.5, 0, height - 1.001)
    i, j = q.astype(np.intp), c.astype(np.intp)
    a, b = (q - i)[:, :, None, None].astype(np.float32), (c - j)[:, None, :, None].astype(np.float32)
    t = np.arange(count)[:, None, None]
    i, j = i[:, :, None], j[:, None, :]
    top = frames[t, i, j] * (1 - b) + frames[t, i, j + 1] * b
    low = frames[t, i + 1, j] * (1 - b) + frames[t, i + 1, j + 1] * b
    crop: NDArray[np.float32] = top * (1 - a) + low * a
    return crop


def fill_gaps(values: Floats) -> Floats:
    """Straight lines over nan; zeros if there is nothing else."""
    ok = np.isfinite(values)
    if not ok.any():
        return np.zeros_like(values)
    at = np.arange(len(values))
    return np.interp(at, at[ok], values[ok])


def peak_offset(a: float, b: float, c: float) -> float:
    """Where the parabola through three values at -1, 0, 1 has its extreme."""
    bend = a - 2 * b + c
    return float(np.clip(0.5 * (a - c) / bend, -0.6, 0.6)) if abs(bend) > 1e-9 else 0.0


def contacts(y: Floats, fps: float) -> list[float]:
    """Instants (seconds) at which something that falls under an even pull reaches the floor. y (T,) world units."""
    y = fill_gaps(y)
    count = len(y)
    rest = float(np.percentile(y, 3))
    pull = _pull(y, rest)
    found: list[float] = []
    k = 1
    apex = 0
    while k < count:
        if y[k] >= y[k - 1] - 1e-3:
            if y[k] > y[apex] or y[k - 1] < rest + 0.02:
                apex = k
            k += 1
            continue
        low = k
        while low + 1 < count and y[low + 1] < y[low] - 1e-3:
            low += 1
        top = k - 1
        if y[top] - y[low] >= DESCENT and y[low] <= rest + 0.34 * max(y[top] - rest, 0.3):
            found.append((_landing(y, top, low, rest, pull) + 0.5) / fps)
        apex = low
        k = low + 1
    return found


def _pull(y: Floats, rest: float) -> float:
    """The acceleration of free fall, world units per frame squared: that of most of what is in the air."""
    bend = -np.diff(y, 2)
    air = (np.minimum(np.minimum(y[:-2], y[1:-1]), y[2:]) > rest + 0.05) & (bend > 0.008) & (bend < 0.15)
    return float(np.median(bend[air])) if air.sum() >= 2 else USUAL_PULL


def _landing(y: Floats, top: int, low: int, rest: float, pull: float) -> float:
    """Frame number, with a fraction, at which the fall from frame `top` to `low` meets the floor."""
    free = np.arange(top, low + 1)
    free = free[(y[free] > rest + FREE) & ((y[free] < y[top] - 0.004) | (free == top))][-5:]
    if len(free) == 0:
        return float(low)
    if len(free) >= 4:
        fitted = _cross(free, y[free], rest)
        bend = 2 * float(np.polyfit(free - free[-1], y[free], 2)[0])
        if abs(bend + pull) < 0.5 * pull:
            return fitted
        free = (
            free[:-1] if y[free[-1]] - y[free[-2]] > y[free[-2]] - y[free[-3]] else free
        )  # the last one rises already
    at, height = free[-2:], y[free[-2:]]
    # through the last frames in the air, with the known pull
    speed = float(height[-1] - height[0]) - pull / 2 if len(at) == 2 else -pull / 2
    a, b, c = -pull / 2, speed, float(height[-1]) - rest
    root = max(b * b - 4 * a * c, 0.0)
    return float(at[-1] + np.clip((-b - np.sqrt(root)) / (2 * a), 0.0, 3.0))


def _cross(at: NDArray[np.intp], y: Floats, level: float) -> float:
    a, b, c = np.polyfit(at - at[-1], y, 2)
    c -= level
    root = b * b - 4 * a * c
    if a >= -1e-6 or root < 0:
        slope = min(float(y[-1] - y[-2]), -1e-3)
        return float(at[-1] + (level - y[-1]) / slope)
    return float(at[-1] + np.clip((-b - np.sqrt(root)) / (2 * a), -1.0, 3.0))


def meeting(a: Floats, b: Floats, fps: float) -> float | None:
    """The instant at which two tracks x (T,), which have come nearer, turn back; None if they do not. Seconds."""
    gap = fill_gaps(b) - fill_gaps(a)
    k = int(gap.argmin())
    if gap[0] - gap[k] < 0.2 or k < 2 or k > len(gap) - 3:
        return None
    before, after = np.arange(max(0, k - 6), k), np.arange(k + 1, min(len(gap), k + 6))
    if gap[after[-1]] - gap[k] < 0.04:
        return None
    p, q = np.polyfit(before, gap[before], 1), np.polyfit(after, gap[after], 1)
    at = (q[1] - p[1]) / (p[0] - q[0])
    return float(np.clip(at, k - 1.5, k + 1.5) + 0.5) / fps


def swings(x: Floats, least: float, fps: float) -> list[float]:
    """Instants of the turning points of a swing x (T,) about 0 that are further out than `least`. Seconds."""
    found: list[tuple[float, float]] = []
    for sign in (1.0, -1.0):
        s = sign * fill_gaps(x)
        for k in range(1, len(s) - 1):
            if s[k] >= least and s[k] >= s[k - 1] and s[k] > s[k + 1]:
                found.append((_turn(s, k, fps), s[k]))
    found.sort()
    merged: list[tuple[float, float]] = []
    for time, height in found:
        if merged and time - merged[-1][0] < 0.2:
            if height > merged[-1][1]:
                merged[-1] = (time, height)
        else:
            merged.append((time, height))
    return [time for time, _ in merged]


def _turn(s: Floats, k: int, fps: float) -> float:
    """Seconds of the turning point of a swing near frame k: that of the sine that fits the frames around it best."""
    near = np.arange(max(0, k - 3), min(len(s), k + 4))
    at = (near - k) / fps
    best, when = np.inf, 0.0
    for half in HALF_SWINGS:
        waves = np.stack([np.cos(np.pi * at / half), np.sin(np.pi * at / half)], 1)
        (a, b), *_ = np.linalg.lstsq(waves, s[near], rcond=None)
        off = float(((waves @ (a, b) - s[near]) ** 2).sum())
        if off < best:
            best, when = off, float(np.arctan2(b, a)) * half / np.pi
    return (k + 0.5) / fps + float(np.clip(when, -0.8 / fps, 0.8 / fps))


def rod_swing(frames: Frames, view: View, x: Floats, y: Floats, r: Floats) -> Floats:
    """How far to the side the rod of a metronome stands, in radii: (T,)."""
    u, v = np.linspace(-0.85, 0.85, 35), np.linspace(0.85, -0.1, 20)
    crop = window(frames, view, x, y, r, u, v)
    off = np.abs(crop - np.median(crop, 0)).mean(-1)
    bright = np.clip(crop.mean(-1) - np.median(crop, 0).mean(-1), 0, None)
    weight = np.clip(0.5 * off + bright - 14, 0, 120)
    # a point of the rod at height v is further out the higher it is: refer all to the same height
    lean = u[None, None, :] / np.clip((v + 0.6) / 1.1, 0.3, None)[None, :, None]
    inside = np.abs(lean) < 0.85
    weight = weight * inside
    total = weight.sum((1, 2))
    out = np.full(len(frames), np.nan)
    ok = total > 200
    out[ok] = (weight * lean).sum((1, 2))[ok] / total[ok]
    result: Floats = out
    return result


def stick_pose(frames: Frames, view: View, x: Floats, y: Floats, r: Floats) -> Floats:
    """How far the stick of a drum is raised: 1 = at rest, 0 = on the skin: (T,)."""
    u = np.linspace(-0.08, 0.2, 9)
    v = np.linspace(STICK_RANGE[1], STICK_RANGE[0], 59)
    strip = window(frames, view, x, y, r, u, v).mean(2)  # (T, K, 3)
    brown = np.asarray(STICK)
    off = np.abs(strip - brown).sum(-1)
    bare = strip[np.argsort(off, 0)[int(0.85 * len(strip))], np.arange(len(v))]  # without the stick
    poses = np.linspace(-0.1, 1.1, 61)
    tip = 0.46 + 0.95 * poses  # (P,)
    cover = np.clip((0.19 - np.abs(v[None, :] - tip[:, None])) / 0.06 + 0.5, 0, 1)  # (P, K)
    model = bare[None] * (1 - cover[..., None]) + brown * cover[..., None]  # (P, K, 3)
    cost = ((strip**2).sum((1, 2))[:, None] + (model**2).sum((1, 2))[None]
            - 2 * strip.reshape(len(strip), -1) @ model.reshape(len(poses), -1).T)  # fmt: skip
    best = cost.argmin(1)
    out = np.empty(len(frames))
    for t, k in enumerate(best):
        shift = peak_offset(cost[t, k - 1], cost[t, k], cost[t, k + 1]) if 0 < k < len(poses) - 1 else 0.0
        out[t] = poses[k] + shift * (poses[1] - poses[0])
    return out


def strokes(pose: Floats, fps: float) -> list[float]:
    """Instants at which a stick of known stroke falls on the skin. pose (T,): 1 = raised. Seconds."""
    p = np.clip(fill_gaps(pose), 0.0, 1.0)
    times = (np.arange(len(p)) + 0.5) / fps
    found: list[float] = []
    k = 0
    while k < len(p):
        if p[k] > STROKE:
            k += 1
            continue
        end = k
        while end + 1 < len(p) and p[end + 1] <= STROKE:
            end += 1
        low = k + int(p[k : end + 1].argmin())
        near = np.arange(max(0, low - 3), min(len(p), low + 4))
        tries = times[low] + np.linspace(-0.09, 0.09, 91)
        since = times[near][None] - tries[:, None]
        model = np.where(since < 0, np.clip(-since / 0.14, 0, 1) ** 0.7, np.clip(since / 0.2, 0, 1))
        found.append(float(tries[((model - p[near]) ** 2).sum(1).argmin()]))
        k = end + 1
    return found


def mouth_opening(frames: Frames, view: View, x: Floats, y: Floats, r: Floats, kind: str) -> Floats:
    """How far the mouth of a face departs from its usual (shut) look, 0..1 of the largest departure: (T,)."""
    middle = MOUTHS[kind]
    crop = window(frames, view, x, y, r, np.linspace(-0.3, 0.3, 19), np.linspace(middle + 0.3, middle - 0.3, 31))
    grey = crop.mean(-1)
    off = np.abs(grey - np.median(grey, 0))
    opening = np.clip(off - 10, 0, None).sum((1, 2))
    top = float(np.percentile(opening, 98))
    result: Floats = opening / max(top, 1e-6)
    return result
