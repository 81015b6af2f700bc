"""Heun's method (EDM, 2206.00364, algorithm 1): two predictions a step."""

from __future__ import annotations

from torch import Tensor

from phonofilm.diffusion.sampler import Predict, Sampler


class Heun(Sampler):
    """Euler's step, then the mean of the slopes at both ends. The last step, to t = 0 where no slope is, is Euler's."""

    order = 2

    def step(self, x: Tensor, t: float, s: float, predict: Predict) -> Tensor:
        slope = (x - predict(x, t)) / t
        ahead = x + (s - t) * slope
        if s == 0:
            return ahead
        return x + (s - t) * 0.5 * (slope + (ahead - predict(ahead, s)) / s)
