"""A look at a film under work without its decoder: the three strongest directions of the latents as false colours.

Shapes: B batch, C channels, T, H, W latents in time, rows, columns; S packed tokens, D their width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import torch

ENLARGED: Final = 8  # pixels a side of a latent


def glimpse(found: torch.Tensor, pipe: Any, size: tuple[int, int]) -> np.ndarray | None:
    """(T, 8 H, 8 W, 3) uint8 of what a pipeline has after a step, for a film of `size` (W, H) pixels.

    found: (B, C, T, H, W), (B, T, C, H, W), or packed (B, S, D). None where the layout is not understood.
    """
    import torch

    latents = _unpacked(found, pipe, size)
    if latents is None:
        return None
    z_TC = latents[0].float().permute(1, 2, 3, 0).reshape(-1, latents.shape[1]).cpu()
    z_TC = z_TC - z_TC.mean(0)
    _, directions = torch.linalg.eigh(z_TC.T @ z_TC)
    chosen = directions[:, -3:].flip(1)
    chosen = chosen * chosen.gather(0, chosen.abs().argmax(0, keepdim=True)).sign()  # the same way up in each step
    colours = z_TC @ chosen
    if colours.shape[1] < 3:
        colours = colours[:, :1].expand(-1, 3)
    low, high = colours.quantile(0.02, dim=0), colours.quantile(0.98, dim=0)
    frames = ((colours - low) / (high - low).clamp(min=1e-6)).clamp(0, 1).view(*latents.shape[2:], 3)
    small = (frames * 255).round().to(torch.uint8).numpy()
    return np.asarray(small.repeat(ENLARGED, 1).repeat(ENLARGED, 2))


def _unpacked(found: torch.Tensor, pipe: Any, size: tuple[int, int]) -> torch.Tensor | None:
    """(B, C, T, H, W)."""
    if found.ndim == 5:
        config = getattr(getattr(pipe, "vae", None), "config", None)
        width = getattr(config, "latent_channels", None) or getattr(config, "z_dim", None)
        if width is not None and found.shape[1] != width == found.shape[2]:
            return found.transpose(1, 2)
        return found
    if found.ndim == 3:
        stride = getattr(pipe, "vae_spatial_compression_ratio", 0) * getattr(pipe, "transformer_spatial_patch_size", 1)
        if not stride:
            return None
        columns, rows = size[0] // stride, size[1] // stride
        if rows * columns == 0 or found.shape[1] % (rows * columns):
            return None
        return found.view(len(found), -1, rows, columns, found.shape[2]).permute(0, 4, 1, 2, 3)
    return None
