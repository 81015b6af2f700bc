"""Adams-Bashforth: the slope continued as a polynomial through those of the steps before.

The slope dx/dt = (x - x0) / t is constant where the path is straight, which flow matching aims at, and stays smooth
down to t = 0; so the last step needs no exception. With steps of unequal length the weights are integrals of the
Lagrange polynomials. A polynomial through x0 inside the exact solution of the linear part, in the manner of multistep
DPM-Solver++ (2211.01095), was tried on normal data: it converged with orders of about 1.9 and 2.7 in place of 2 and 3,
and was more exact only at few steps on narrow data.
"""

from __future__ import annotations

import math

from torch import Tensor

from phonofilm.diffusion.sampler import Predict, Sampler


class Adams(Sampler):
    """One prediction a step, of order 1 to 3; the first step of order 3 takes two."""

    def __init__(self, order: int = 2) -> None:
        if order not in (1, 2, 3):
            raise ValueError(f"order {order} is not possible: 1, 2 or 3")
        self.order = order
        self._past: list[tuple[float, Tensor]] = []  # (t, slope), newest last

    def start(self) -> None:
        self._past = []

    def step(self, x: Tensor, t: float, s: float, predict: Predict) -> Tensor:
        self._past = [*self._past, (t, (x - predict(x, t)) / t)][-self.order :]
        nodes = self._past
        if self.order == 3 and len(nodes) == 1 and s > 0:
            # a first step of order 1 would spoil order 3: use the line to the slope at its end
            ahead = x + (s - t) * nodes[0][1]
            nodes = [(s, (ahead - predict(ahead, s)) / s), *nodes]
        for weight, (_, slope) in zip(lagrange_integrals([u for u, _ in nodes], t, s), nodes, strict=True):
            x = x + weight * slope
        return x


def lagrange_integrals(nodes: list[float], t: float, s: float) -> list[float]:
    """For each of 1 to 3 nodes, the integral from t to s of the polynomial that is 1 there and 0 at the others."""
    moments = [(s**p - t**p) / p for p in (1, 2, 3)]
    weights = []
    for i, node in enumerate(nodes):
        powers = [1.0]  # coefficients, constant first, of the product of (u - other)
        others = nodes[:i] + nodes[i + 1 :]
        for other in others:
            powers = [a - other * b for a, b in zip([0.0, *powers], [*powers, 0.0], strict=True)]
        scale = math.prod(node - other for other in others)
        weights.append(sum(p * m for p, m in zip(powers, moments, strict=False)) / scale)
    return weights
