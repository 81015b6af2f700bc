"""How near a clip is to another: PSNR, PSNR inside boxes, SSIM, log-spectral distance, shift of onsets.

Shapes: T frames, H rows, W columns, K boxes, N samples.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phonofilm.codec.audio import HOP, spectrum

Picture = NDArray[np.uint8]


def _decibels(mean_square: float) -> float:
    return math.inf if mean_square == 0 else 10 * math.log10(255**2 / mean_square)


def psnr(made_THWC: Picture, true_THWC: Picture) -> float:
    """Peak signal-to-noise ratio in dB of uint8 frames; infinite if they are equal."""
    return _decibels(float(np.square(made_THWC.astype(np.float32) - true_THWC).mean()))


def psnr_in_boxes(made_THWC: Picture, true_THWC: Picture, boxes_T4: NDArray[np.float64]) -> float:
    """PSNR in dB over the pixels inside one actor's box of each frame.

    boxes_T4: left, top, right, bottom in pixels (floats; whole pixels that are touched count); a box that is empty or
    outside of the picture counts for nothing. NaN if no pixel is inside.
    """
    h, w = true_THWC.shape[1:3]
    total, count = 0.0, 0
    for made, true, (left, top, right, bottom) in zip(made_THWC, true_THWC, boxes_T4, strict=True):
        if not (right > left and bottom > top):
            continue
        rows = slice(max(0, math.floor(top)), min(h, max(0, math.ceil(bottom))))
        columns = slice(max(0, math.floor(left)), min(w, max(0, math.ceil(right))))
        difference = made[rows, columns].astype(np.float32) - true[rows, columns]
        total += float(np.square(difference).sum())
        count += difference.size
    return _decibels(total / count) if count else math.nan


def ssim(made_THWC: Picture, true_THWC: Picture) -> float:
    """Mean structural similarity of uint8 frames (Wang et al. 2004: Gaussian of 11 pixels, sigma 1.5), each channel."""
    x, y = (torch.from_numpy(np.ascontiguousarray(v)).float().permute(0, 3, 1, 2) for v in (made_THWC, true_THWC))
    ramp = torch.exp(-((torch.arange(11.0) - 5) ** 2) / (2 * 1.5**2))
    down, across = (_sliding(ramp / ramp.sum(), size) for size in x.shape[-2:])

    def blur(v: Tensor) -> Tensor:
        return down @ v @ across.T

    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float((((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean())


def _sliding(kernel_K: Tensor, size: int) -> Tensor:
    """(size - K + 1, size): the matrix that slides a kernel along; its product is many times faster than one channel's
    convolution."""
    rows = torch.arange(size - len(kernel_K) + 1)
    matrix = torch.zeros(len(rows), size)
    for k, value in enumerate(kernel_K):
        matrix[rows, rows + k] = value
    return matrix


def log_spectral_distance(made_N: NDArray[np.float32], true_N: NDArray[np.float32], floor_db: float = -80.0) -> float:
    """Log-spectral distance in dB: over frames, the mean of the root mean square over frequency.

    Both power spectra are limited from below at `floor_db` relative to the largest of `true_N` (silence is equal to
    silence). The shorter length counts.
    """
    n = min(len(made_N), len(true_N)) // HOP * HOP
    made, true = (
        spectrum(torch.from_numpy(np.ascontiguousarray(v[:n], np.float32))[None])[0] for v in (made_N, true_N)
    )
    power_made, power_true = made.abs().square(), true.abs().square()
    floor = float(power_true.max()) * 10 ** (floor_db / 10) + 1e-12
    difference = 10 * torch.log10(power_made.clamp(min=floor) / power_true.clamp(min=floor))
    return float(difference.square().mean(0).sqrt().mean())


def onset_shift_ms(
    made_N: NDArray[np.float32],
    true_N: NDArray[np.float32],
    times: NDArray[np.float64],
    rate: int = 16_000,
    reach_ms: float = 40.0,
) -> NDArray[np.float64]:
    """For each onset (seconds) how much later it is heard in `made_N` than in `true_N`, in ms.

    The lag, within +-reach_ms, at which the rise of the two envelopes (1 ms blocks, logarithmic, smoothed over 3 ms)
    around the onset correlates best, refined by a parabola. NaN where the onset is too near to an end, or silent.
    """
    block = rate // 1000
    rises = []
    for samples in (made_N, true_N):
        n = len(samples) // block * block
        energy = np.square(samples[:n].astype(np.float64)).reshape(-1, block).mean(1)
        level = 0.5 * np.log(np.convolve(energy, np.ones(3) / 3, "same") + 1e-7)
        rises.append(np.maximum(np.diff(level, prepend=level[:1]), 0))
    reach = round(reach_ms)
    shifts = np.full(len(times), math.nan)
    for i, time in enumerate(times):
        first, last = round(time * 1000) - 20, round(time * 1000) + 40
        if first - reach < 0 or last + reach > min(len(r) for r in rises):
            continue
        true = rises[1][first:last]
        if true.sum() < 0.1:
            continue
        scores = np.array([true @ rises[0][first + k : last + k] for k in range(-reach, reach + 1)])
        best = int(scores.argmax())
        if scores[best] <= 0:
            continue
        shift = float(best - reach)
        if 0 < best < 2 * reach:
            left, middle, right = scores[best - 1 : best + 2]
            curve = left - 2 * middle + right
            shift += 0.5 * (left - right) / curve if curve < 0 else 0.0
        shifts[i] = shift
    return shifts
