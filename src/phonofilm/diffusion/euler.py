"""Euler's method: one prediction a step, exact where the prediction does not change."""

from __future__ import annotations

from torch import Tensor

from phonofilm.diffusion.sampler import Predict, Sampler, toward


class Euler(Sampler):
    """x_s = x0 + (s / t) (x_t - x0)."""

    order = 1

    def step(self, x: Tensor, t: float, s: float, predict: Predict) -> Tensor:
        return toward(x, predict(x, t), t, s)
