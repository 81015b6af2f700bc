"""Anti-aliased drawing with signed distances, in batched torch.

Shape legend: n scenes, T frames, K window height, L window width; every plane is (n, T, K, L).
A signed distance is negative inside; coverage is exact to first order for edges wider than a pixel
(I. Quilez, "2D distance functions").
"""

from __future__ import annotations

import torch
from torch import Tensor

Number = Tensor | float
Colour = tuple[Number, Number, Number]


def rgb(r: int, g: int, b: int) -> Colour:
    """A colour from 8-bit sRGB numbers."""
    return r / 255, g / 255, b / 255


def mix(a: Colour, b: Colour, amount: Number) -> Colour:
    """`a` where amount is 0, `b` where it is 1."""
    return a[0] + (b[0] - a[0]) * amount, a[1] + (b[1] - a[1]) * amount, a[2] + (b[2] - a[2]) * amount


def shade(c: Colour, light: Number, gloss: Number = 0.0) -> Colour:
    """`c` under `light` (1 = as it is), with `gloss` added towards white."""
    lit = (c[0] * light, c[1] * light, c[2] * light)
    return lit[0] + (1 - lit[0]) * gloss, lit[1] + (1 - lit[1]) * gloss, lit[2] + (1 - lit[2]) * gloss


def circle(u: Tensor, v: Tensor, x: Number, y: Number, r: Number) -> Tensor:
    """Distance to a disc."""
    return torch.sqrt((u - x) ** 2 + (v - y) ** 2 + 1e-9) - r


def ellipse(u: Tensor, v: Tensor, x: Number, y: Number, a: Number, b: Number) -> Tensor:
    """Distance to an axis-parallel ellipse with half axes a and b, to first order at its edge."""
    p, q = (u - x) / a, (v - y) / b
    k = torch.sqrt(p * p + q * q + 1e-9)
    slope = torch.sqrt((p / a) ** 2 + (q / b) ** 2 + 1e-9)
    return k * (k - 1.0) / slope


def box(u: Tensor, v: Tensor, x: Number, y: Number, a: Number, b: Number, corner: float = 0.0) -> Tensor:
    """Distance to a rectangle with half sides a and b and rounded corners."""
    p, q = (u - x).abs() - (a - corner), (v - y).abs() - (b - corner)
    outside = torch.sqrt(p.clamp(min=0) ** 2 + q.clamp(min=0) ** 2 + 1e-12)
    return outside + torch.maximum(p, q).clamp(max=0) - corner


def capsule(u: Tensor, v: Tensor, ax: Number, ay: Number, bx: Number, by: Number, r: float) -> Tensor:
    """Distance to a thick line from a to b with round ends."""
    dx, dy = bx - ax, by - ay
    h = (((u - ax) * dx + (v - ay) * dy) / (dx * dx + dy * dy + 1e-9)).clamp(0, 1)
    return torch.sqrt((u - ax - h * dx) ** 2 + (v - ay - h * dy) ** 2 + 1e-9) - r


def trapezoid(u: Tensor, v: Tensor, low: float, high: float, wide_low: float, wide_high: float) -> Tensor:
    """Distance (bound) to a symmetric trapezoid between v = low and v = high with the given half widths."""
    half = wide_low + (wide_high - wide_low) * ((v - low) / (high - low)).clamp(0, 1)
    slant = 1.0 / (1.0 + ((wide_low - wide_high) / (high - low)) ** 2) ** 0.5
    return torch.maximum((u.abs() - half) * slant, torch.maximum(low - v, v - high))


def turn(u: Tensor, v: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates in a frame that is rotated by `angle` radians (counter-clockwise)."""
    c, s = torch.cos(angle), torch.sin(angle)
    return c * u + s * v, c * v - s * u


class Layer:
    """A picture with coverage, painted back to front; premultiplied, planes (n, T, K, L) in [0, 1]."""

    def __init__(self, like: Tensor, pixel: Tensor | float):
        """`pixel` is the size of a pixel in the units of the distances."""
        self.planes = [torch.zeros_like(like) for _ in range(3)]
        self.alpha = torch.zeros_like(like)
        self.pixel = pixel

    def cover(self, distance: Tensor) -> Tensor:
        """Coverage of each pixel by the shape: 0 outside, 1 inside."""
        return (0.5 - distance / self.pixel).clamp(0, 1)

    def fill(self, distance: Tensor, colour: Colour, amount: Number = 1.0) -> None:
        """Paint a shape over what is there."""
        self.put(self.cover(distance) * amount, colour)

    def put(self, coverage: Tensor, colour: Colour) -> None:
        """Paint with a given coverage."""
        keep = 1 - coverage
        for i in range(3):
            self.planes[i] = self.planes[i] * keep + coverage * colour[i]
        self.alpha = self.alpha * keep + coverage
