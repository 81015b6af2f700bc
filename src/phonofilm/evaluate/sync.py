"""Lag of the sound behind the picture: of blows and of lips. Positive: the sound is late.

What remains on clips whose sound and picture are exact is the measure's own bias; it was estimated on them alone
(`estimate_bias`) and frozen in `BIAS_MS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from phonofilm.evaluate.hearing import HOP, RATE, Onsets

Floats = NDArray[np.float64]

BIAS_MS: Final[dict[str, float]] = {
    "bounce": -0.7, "fall": -0.9, "collide": -0.5, "ring": -0.25, "strike": -0.3, "tick": -0.4, "say": 3.0,
}  # fmt: skip
REACH: Final = 0.25  # seconds within which a sound may belong to a blow
FADE, FADE_IN_COMPANY = 0.1, 0.04  # seconds over which an onset's worth falls to 1/e
LIP_REACH: Final = 0.4
LIP_STEP: Final = 0.0025
LIP_SMOOTH: Final = 0.03  # seconds, of the envelope
EARLY_MS, LATE_MS = -45.0, 125.0  # ITU-R BT.1359: detectable beyond


def blow_lags(
    seen: Sequence[float], onsets: Onsets, act: str, own: Floats | None = None, others: Sequence[float] = ()
) -> list[float]:
    """For each blow seen (seconds) the lag of its sound, ms; nan where none is heard within reach.

    Of the onsets within reach the most sudden counts, the nearer the more. Beside another actor, `own` tells how much
    each onset sounds like this one, 0..1, and `others` when the other one strikes: near counts for more, and what the
    other one explains better for less. Each onset serves one blow.
    """
    times = onsets.times
    weight = onsets.rise.copy() if own is None else np.sqrt(onsets.rise) * (0.1 + own)
    fade = FADE if own is None else FADE_IN_COMPANY
    elsewhere = (
        np.min([np.abs(times - o) for o in others], 0) if len(others) and len(times) else np.full(len(times), np.inf)
    )
    lags = []
    for at in seen:
        lag = times - at
        worth = weight * np.exp(-np.abs(lag) / fade) * (np.abs(lag) <= REACH)
        worth = np.where((elsewhere < 0.03) & (np.abs(lag) > 2 * elsewhere + 0.02), 0.15 * worth, worth)
        if len(worth) == 0 or worth.max() <= 0:
            lags.append(np.nan)
            continue
        k = int(worth.argmax())
        weight[k] = 0.0
        lags.append(float(lag[k]) * 1000 - BIAS_MS[act])
    return lags


def lip_lag(opening: Floats, envelope: Floats, fps: float) -> float:
    """Lag (ms) of the voice behind the mouth, by correlation; nan if either does not move.

    opening (T,) at frame middles; envelope (F,) at `HOP / RATE` seconds.
    """
    if np.ptp(opening) < 1e-6 or np.ptp(envelope) < 1e-6:
        return float("nan")
    rate = RATE / HOP
    width = LIP_SMOOTH * rate
    at = np.arange(-round(3 * width), round(3 * width) + 1)
    kernel = np.exp(-0.5 * (at / width) ** 2)
    smooth = np.convolve(envelope, kernel / kernel.sum(), "same")
    times = (np.arange(len(opening)) + 0.5) / fps
    lags = np.arange(-LIP_REACH, LIP_REACH + LIP_STEP / 2, LIP_STEP)
    heard = np.interp((times[None] + lags[:, None]) * rate, np.arange(len(smooth)), smooth)
    o = opening - opening.mean()
    h = heard - heard.mean(1, keepdims=True)
    fit = (h @ o) / (np.linalg.norm(h, axis=1) + 1e-9)
    k = int(fit.argmax())
    shift = 0.0
    if 0 < k < len(lags) - 1:
        bend = fit[k - 1] - 2 * fit[k] + fit[k + 1]
        shift = float(0.5 * (fit[k - 1] - fit[k + 1]) / bend) if bend < 0 else 0.0
    return float((lags[k] + np.clip(shift, -1, 1) * LIP_STEP) * 1000) - BIAS_MS["say"]


def estimate_bias(lags: dict[str, list[float]]) -> dict[str, float]:
    """The median of each kind of lag, of true clips: what `BIAS_MS` should hold. Pass lags measured with zero bias."""
    return {act: float(np.nanmedian(values)) for act, values in lags.items() if len(values)}


def lag_summary(lags: Sequence[float]) -> dict[str, float]:
    """Median and 90th percentile of |lag| in ms, the share within BT.1359, and how many were measured."""
    values = np.asarray(lags, np.float64)
    heard = values[np.isfinite(values)]
    if len(values) == 0:
        return {"n": 0}
    inside = float(((heard >= EARLY_MS) & (heard <= LATE_MS)).sum() / len(values))  # unheard counts as outside
    if len(heard) == 0:
        return {"n": len(values), "within_bt1359": inside}
    size = np.abs(heard)
    return {
        "n": len(values), "median_abs_ms": float(np.median(size)), "p90_abs_ms": float(np.percentile(size, 90)),
        "median_ms": float(np.median(heard)), "within_bt1359": inside,
    }  # fmt: skip
