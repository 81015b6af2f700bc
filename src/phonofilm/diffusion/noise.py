"""Noise, one generator a sample: what a seed draws does not depend on the batch, nor on the device.

Shapes: B batch, N tokens, D width of a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from phonofilm.latents import TOKEN_WIDTH, Geometry


def generator(seed: int) -> torch.Generator:
    """The generator of one sample, on the CPU; `seed` in [0, 2^63)."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed} is not possible: it must be at least 0 and below 2^63")
    return torch.Generator().manual_seed(seed)


def strip_noise(seeds: Sequence[int], geometry: Geometry, device: torch.device | str = "cpu") -> Tensor:
    """Normal noise (B, N, 128) float32 for one clip a seed; 0 in unused channels.

    Picture, sound and storyboard draw from streams of their own, so that the noise of one does not depend on another.
    """
    rows = []
    for seed in seeds:
        draw = generator(seed)
        picture = torch.randn(geometry.n_video + geometry.n_extra, TOKEN_WIDTH, generator=draw)
        draw = generator((seed ^ 0x5DEECE66D) % 2**63)
        sound = torch.randn(geometry.n_audio, TOKEN_WIDTH, generator=draw)
        draw = generator((seed ^ 0x2545F4914F6CDD1D) % 2**63)
        board = torch.randn(geometry.boards, TOKEN_WIDTH, generator=draw)
        rows.append(torch.cat([picture[: geometry.n_video], sound, picture[geometry.n_video :], board]))
    return (torch.stack(rows) * geometry.channel_mask()).to(device)


def add_noise(x0_BND: Tensor, noise_BND: Tensor, t_BN: Tensor) -> Tensor:
    """x_t = (1 - t) x0 + t noise; where t = 0 exactly x0."""
    return torch.lerp(x0_BND, noise_BND.to(x0_BND.dtype), t_BN[..., None].to(x0_BND.dtype))
