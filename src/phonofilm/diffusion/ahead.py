"""The storyboard ahead of picture and sound: what is given in sight, noise where the rest will be.

Semantics first, then texture beneath them (2512.04926). Tracks of which nothing is given are left out of the strip:
the storyboard alone is a tenth of the work.

Shapes: B strips, N tokens, D = 128 width of a token, T tokens of the storyboard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from phonofilm.diffusion.sampler import Denoise, Progress, Sampler
from phonofilm.latents import Geometry
from phonofilm.storyboard import steady


def draw_board(
    bind: Callable[[Geometry], Denoise],
    x_BND: Tensor,
    mask_BN: Tensor,
    geometry: Geometry,
    noise_BTD: Tensor,
    sampler: Sampler,
    times: Tensor,
    callback: Callable[[Progress], None] | None = None,
) -> Tensor:
    """Denoise a storyboard (B, T, D); in each step nobody in it changes who he is (`storyboard.steady`).

    Args:
        bind: the denoiser for a geometry.
        x_BND, mask_BN, geometry: a strip without storyboard as a sampler starts with it, see `Sampler`.
        noise_BTD: what the storyboard starts with.
        sampler, times, callback: see `Sampler`.
    """
    B, T = noise_BTD.shape[:2]
    unseen = bool((mask_BN[:, geometry.video] == 1).all())
    given = slice(0, None)
    if unseen and not geometry.images and bool((mask_BN == 1).all()):
        given, geometry = slice(0, 0), Geometry(0, geometry.height, geometry.width)
    elif unseen:
        given, geometry = slice(geometry.n_video, None), replace(geometry, latents=0)
    geometry = replace(geometry, boards=T)
    bound, x_BND, mask_BN = bind(geometry), x_BND[:, given], mask_BN[:, given]

    def denoise(x_BTD: Tensor, t_BT: Tensor) -> Tensor:
        answer_BND = bound(torch.cat([x_BND, x_BTD], dim=1), torch.cat([mask_BN, t_BT], dim=1))
        return steady(answer_BND[:, geometry.board])

    return sampler(denoise, noise_BTD, noise_BTD.new_ones(B, T), times, callback)
