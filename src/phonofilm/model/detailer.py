"""What the wide tokens of the transformer cannot carry: a few convolutions over the latents of the picture.

A token of the stream stands for 256 numbers and is as wide as that, so that little of what shows through low noise gets
through. As in DiP's detailer head (2511.18822) a small convolutional network sees the noisy latents themselves beside
what the transformer knows of each place, and adds what is missing to its answer.

Shapes: B batch, T, H, W video latents in time, rows, columns; Z = 32 channels of a latent, D of the detailer,
R columns of the basis over noise levels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from phonofilm.latents import VIDEO_CHANNELS
from phonofilm.model.layers import Linear, norm

KERNEL = 3  # latents in time, rows and columns that a convolution sees


class DetailBlock(nn.Module):
    """Convolution and pointwise map on a norm whose scale and shift depend on the latent's noise level."""

    def __init__(self, width: int, cosines: int) -> None:
        super().__init__()
        self.modulation = Linear(cosines, 2 * width, std=0)  # scale, shift
        self.up = Linear(KERNEL**3 * width, width)  # of the 3 x 3 x 3 latents around
        self.down = Linear(width, width, std=0)

    def forward(self, x_BTHWD: Tensor, basis_BTHWR: Tensor) -> Tensor:
        dtype = basis_BTHWR.dtype
        scale, shift = self.modulation(basis_BTHWR).chunk(2, dim=-1)
        h = (norm(x_BTHWD) * (1 + scale) + shift).to(dtype)
        width = h.shape[-1]
        kernel = self.up.weight.to(dtype).view(width, KERNEL, KERNEL, KERNEL, width).permute(0, 4, 1, 2, 3)
        h = F.conv3d(h.permute(0, 4, 1, 2, 3), kernel, padding=KERNEL // 2).permute(0, 2, 3, 4, 1)
        out: Tensor = x_BTHWD + self.down(F.gelu(h))
        return out


class Detailer(nn.Module):
    """Noisy latents and what the transformer knows of their places → what its answer lacks; 0 when fresh."""

    def __init__(self, width: int, blocks: int, cosines: int) -> None:
        super().__init__()
        self.noisy = Linear(VIDEO_CHANNELS, width)
        self.level = Linear(cosines, width, std=0.1)
        self.blocks = nn.ModuleList(DetailBlock(width, cosines) for _ in range(blocks))
        self.modulation = Linear(cosines, 2 * width, std=0)
        self.out = Linear(width, VIDEO_CHANNELS, std=0)
        self.skip = Linear(cosines, VIDEO_CHANNELS, std=0)  # of each noisy channel, by noise level

    def forward(
        self,
        x_BTHWZ: Tensor,
        known_BTHWD: Tensor,
        basis_BTHWR: Tensor,
        run: Callable[..., Tensor],
    ) -> Tensor:
        """(B, T, H, W, Z) float32. known: by the transformer; basis: over noise levels, in the type of the products.

        run: calls a block, compiled or not.
        """
        h_BTHWD = (self.noisy(x_BTHWZ) + known_BTHWD + self.level(basis_BTHWR)).float()
        for block in self.blocks:
            h_BTHWD = run(block, h_BTHWD, basis_BTHWR)
        scale, shift = self.modulation(basis_BTHWR).chunk(2, dim=-1)
        h_BTHWD = (norm(h_BTHWD) * (1 + scale) + shift).to(basis_BTHWR.dtype)
        out: Tensor = self.out(h_BTHWD).float() + self.skip(basis_BTHWR).float() * x_BTHWZ.float()
        return out
