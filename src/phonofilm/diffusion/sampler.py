"""The loop that every sampler shares.

Shapes: B batch, N tokens, D width of a token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x_BND, t_BN) → x0_BND."""

Predict = Callable[[Tensor, float], Tensor]
"""(x_BND, t) → x0_BND:
what a `step` sees: each token's own level is in it already, and given tokens come back unchanged."""


@dataclass(frozen=True)
class Progress:
    """What is known after a step."""

    step: int  # steps done, 1..steps
    steps: int  # in all
    t: float  # noise level now
    x0_BND: Tensor  # the clean strip as last predicted: a preview


class Sampler(ABC):
    """Integrates dx/dt = (x - x0(x, t)) / t along a grid of times.

    A token whose mask is m has the noise level m t. Its dx/d(mt) = (x - x0) / (mt), hence dx/dt is the same formula
    for every m > 0, and a step needs to know only t.
    """

    order: int  # of convergence

    def __call__(
        self,
        denoise: Denoise,
        x_BND: Tensor,
        mask_BN: Tensor,
        times: Tensor,
        callback: Callable[[Progress], None] | None = None,
    ) -> Tensor:
        """Make a clean strip.

        Args:
            denoise: (x_BND, t_BN) → x0_BND.
            x_BND: where to start: (1 - m) x0 + m noise, so exactly the given token where m = 0.
            mask_BN: m in [0, 1] of each token; where it is 0 the token comes out bitwise as it went in.
            times: grid from at most 1 to at least 0, strictly falling.
            callback: called after each step; what it raises ends the loop (a way to cancel).

        Returns:
            The strip at the last time.
        """
        grid = [float(t) for t in times]
        if len(grid) < 2 or any(t <= s for t, s in pairwise(grid)) or grid[-1] < 0:
            raise ValueError(f"times must fall strictly and end at 0 or above, got {grid}")
        given_BN1 = (mask_BN == 0)[..., None]
        latest = x_BND

        def predict(x: Tensor, t: float) -> Tensor:
            nonlocal latest
            latest = torch.where(given_BN1, x_BND, denoise(x, mask_BN * t).to(x.dtype))
            return latest

        x = x_BND
        self.start()
        for i, (t, s) in enumerate(pairwise(grid)):
            x = torch.where(given_BN1, x_BND, self.step(x, t, s, predict))
            if callback is not None:
                callback(Progress(i + 1, len(grid) - 1, s, latest))
        return x

    def start(self) -> None:  # noqa: B027 (most samplers remember nothing)
        """Forget what was remembered of an earlier strip."""

    @abstractmethod
    def step(self, x: Tensor, t: float, s: float, predict: Predict) -> Tensor:
        """From noise level t to s < t."""


def toward(x: Tensor, x0: Tensor, t: float, s: float) -> Tensor:
    """Exact solution from t to s for a constant x0: x0 + (s / t) (x - x0)."""
    return torch.lerp(x0, x, s / t)
