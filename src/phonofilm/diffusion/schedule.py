"""Noise levels: the grid on which a sampler steps, and the levels that training draws."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

SHIFT: Final = 6.0  # of a sampler's grid where much is open: near exp(mean) of the noise levels of training


def uniform_times(steps: int) -> Tensor:
    """(steps + 1,) float64 from 1 to 0, evenly spaced."""
    if steps < 1:
        raise ValueError(f"{steps} steps are not possible: there must be at least 1")
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def shifted_times(steps: int, shift: float = SHIFT) -> Tensor:
    """(steps + 1,) from 1 to 0; `shift` above 1 spends more of the steps on high noise (SD3, 2403.03206, eq. 23)."""
    if shift <= 0:
        raise ValueError(f"a shift of {shift} is not possible: it must be above 0")
    t = uniform_times(steps)
    return shift * t / (1 + (shift - 1) * t)


def draw_times(
    shape: tuple[int, ...],
    generator: torch.Generator | None = None,
    *,
    mean: float,
    deviation: float,
    uniform: float,
) -> Tensor:
    """Noise levels for training, in (0, 1): logit-normal (SD3, 2403.03206), and a share `uniform` of uniform ones.

    mean, deviation: of logit(t); a mean above 0 trains more on high noise.
    """
    t = torch.sigmoid(mean + deviation * torch.randn(shape, generator=generator))
    other = torch.rand(shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < uniform, other, t).clamp(1e-4, 1.0)
