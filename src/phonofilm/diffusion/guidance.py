"""Guidance: a denoiser that wraps a denoiser, so that no sampler ever sees it.

Shapes: B batch, N tokens, D width of a token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from phonofilm.diffusion.sampler import Denoise
from phonofilm.storyboard import rains


@dataclass(frozen=True)
class ClassifierFree:
    """x0 = uncond + scale (cond - uncond) (2207.12598), within an interval of noise levels (2404.07724)."""

    conditional: Denoise  # with the prompt; takes B strips
    both: Denoise  # takes 2 B strips: the first half with the prompt, the second half without
    scale: float | Tensor = 2.0  # 1: no guidance. A tensor broadcasts over (B, N, D): for the sound another scale, say
    interval: tuple[float, float] = (0.1, 0.95)  # guided where the strip's highest noise level lies within

    def __call__(self, x_BND: Tensor, t_BN: Tensor) -> Tensor:
        low, high = self.interval
        off = not isinstance(self.scale, Tensor) and self.scale == 1
        if off or not low <= float(t_BN.max()) <= high:
            return self.conditional(x_BND, t_BN)
        with_text, without = self.both(x_BND.repeat(2, 1, 1), t_BN.repeat(2, 1)).chunk(2)
        return without + self.scale * (with_text - without)


@dataclass(frozen=True)
class TrackGuidance:
    """x0 = alone + scale (x0 - alone) on one track, where `alone` sees neither the prompt nor the other tracks.

    Classifier-free guidance (2207.12598) where it is needed, at the cost of that track: a strip is mostly picture. What
    guides is all that the rest of the strip tells, above all the storyboard.
    """

    conditional: Denoise  # with the prompt; takes strips
    alone: Denoise  # takes strips, answers with the tokens of the track: (B, S, D)
    track: slice  # tokens that are guided
    scale: float | Tensor = 3.0  # 1: no guidance. A tensor broadcasts over (B, S, D)
    interval: tuple[float, float] = (0.1, 0.95)  # guided where the strip's highest noise level lies within

    def __call__(self, x_BND: Tensor, t_BN: Tensor) -> Tensor:
        x0_BND = self.conditional(x_BND, t_BN)
        low, high = self.interval
        off = not isinstance(self.scale, Tensor) and self.scale == 1
        if off or not low <= float(t_BN.max()) <= high or not bool(t_BN[:, self.track].any()):
            return x0_BND
        alone_BSD = self.alone(x_BND, t_BN)
        x0_BND = x0_BND.clone()
        x0_BND[:, self.track] = alone_BSD + self.scale * (x0_BND[:, self.track] - alone_BSD)
        return x0_BND


def storyboard_guidance(board_BTD: Tensor, usual: float, rain: float) -> float | Tensor:
    """How strongly a picture is guided by its storyboard (B, T, D), on the strip: `usual`, or `rain` where it rains.

    The mean of what may come is a dry picture: the fewer steps and the less training, the fainter is the rain. Away
    from what it is without a storyboard, there is more of it.
    """
    rainy_B = rains(board_BTD)
    if not bool(rainy_B.any()):
        return usual
    return torch.where(rainy_B, rain, usual)[:, None, None]


@dataclass(frozen=True)
class MatchGuidance:
    """Moves the predicted clean strip up the gradient of a score, such as of a matcher (cf. 2302.07121).

    The gradient, taken with respect to the prediction alone, is scaled to root mean square 1 over a sample;
    the shift is weight x t x that, in units of the latents' deviation, and 0 on given tokens.
    """

    denoise: Denoise
    score: Callable[[Tensor], Tensor]  # x0_BND → (B,), higher is better, differentiable
    weight: float = 0.1
    interval: tuple[float, float] = (0.1, 0.95)  # where the strip's highest noise level lies within

    def __call__(self, x_BND: Tensor, t_BN: Tensor) -> Tensor:
        x0_BND = self.denoise(x_BND, t_BN)
        low, high = self.interval
        if self.weight == 0 or not low <= float(t_BN.max()) <= high:
            return x0_BND
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x0_BND.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.score(leaf).sum(), leaf)
        gradient = torch.where((t_BN > 0)[..., None], gradient, 0)
        size = gradient.square().mean(dim=(1, 2), keepdim=True).sqrt()
        return x0_BND + self.weight * t_BN[..., None] * gradient / size.clamp(min=1e-12)
