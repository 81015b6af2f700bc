"""What the wide tokens of the transformer cannot carry: a few convolutions over latents of the picture or storyboard.

A token of the stream stands for 256 numbers and is as wide as that, so that little of what shows through low noise gets
through. As in DiP's detailer head (2511.18822) a small convolutional network sees the noisy latents themselves beside
what the transformer knows of each place, and adds what is missing to its answer.

Shapes: B batch, T, H, W latents in time, rows, columns; Z channels of a latent, D of the detailer, R columns of the
basis over noise levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phonofilm.model.layers import Linear, norm


class DetailBlock(nn.Module):
    """Convolution and pointwise map on a norm whose scale and shift depend on the latent's noise level.

    The convolution sees 3 x 3 latents of one instant, or, `in_time`, 3 instants of one place: in a trial wider blocks
    of this kind learnt faster than narrow ones of 3 x 3 x 3.
    """

    def __init__(self, width: int, cosines: int, in_time: bool) -> None:
        super().__init__()
        self.in_time = in_time
        self.modulation = Linear(cosines, 2 * width, std=0)  # scale, shift
        self.up = Linear((3 if in_time else 9) * width, width)
        self.down = Linear(width, width, std=0)
        self.by_planes: Callable[[Tensor, Tensor], Tensor] = by_planes

    def forward(self, x_BTHWD: Tensor, basis_BTHWR: Tensor) -> Tensor:
        dtype = basis_BTHWR.dtype
        scale, shift = self.modulation(basis_BTHWR).chunk(2, dim=-1)
        h = (norm(x_BTHWD) * (1 + scale) + shift).to(dtype)
        width = h.shape[-1]
        if self.in_time:
            h = F.pad(h, (0, 0, 0, 0, 0, 0, 1, 1))
            h = self.up(torch.cat([h[:, :-2], h[:, 1:-1], h[:, 2:]], dim=-1))
        else:
            kernel = self.up.weight.to(dtype).view(width, 1, 3, 3, width).permute(0, 4, 1, 2, 3)
            if h.device.type == "cpu" and dtype == torch.float32:
                h = self.by_planes(h, kernel[:, :, 0])
            else:
                h = F.conv3d(h.permute(0, 4, 1, 2, 3), kernel, padding=(0, 1, 1)).permute(0, 2, 3, 4, 1)
        out: Tensor = x_BTHWD + self.down(F.gelu(h))
        return out


def by_planes(h_BTHWD: Tensor, kernel_EDKK: Tensor) -> Tensor:
    """3 x 3 convolution of each instant's picture, D channels to E."""
    flat = F.conv2d(h_BTHWD.flatten(0, 1).permute(0, 3, 1, 2), kernel_EDKK, padding=1)
    made: Tensor = flat.permute(0, 2, 3, 1).unflatten(0, h_BTHWD.shape[:2])
    return made


class Filter(nn.Module):
    """A linear filter along time with gains that depend on the noise level: a Wiener filter, learnt.

    It sees `REACH` latents before and after each, and the mean of all: what stays, or moves evenly, is told by all of
    them together. A linear map keeps the precision that norms and bfloat16 lose.
    """

    REACH = 3

    def __init__(self, channels: int, width: int, cosines: int) -> None:
        super().__init__()
        self.across = Linear((2 * self.REACH + 2) * channels, width)
        self.gain = Linear(cosines, width, std=0.5)
        self.out = Linear(width, channels, std=0)

    def forward(self, x_BTHWZ: Tensor, basis_BTHWR: Tensor) -> Tensor:
        T, reach = x_BTHWZ.shape[1], self.REACH
        places = torch.arange(-reach, T + reach, device=x_BTHWZ.device).clamp(0, T - 1)  # ends stand for what is beyond
        padded = x_BTHWZ[:, places]
        around = [padded[:, k : k + T] for k in range(2 * reach + 1)] + [
            x_BTHWZ.mean(1, keepdim=True).expand_as(x_BTHWZ)
        ]
        out: Tensor = self.out(self.across(torch.cat(around, dim=-1)) * self.gain(basis_BTHWR.float()))
        return out


class Detailer(nn.Module):
    """Noisy latents and what is known of their places → clean latents.

    It sees the noisy latents as far as they tell something, and corrects what can be said of each by itself: the linear
    estimate x (1 - t) / ((1 - t)² + t²), for values of unit variance (cf. the preconditioning of 2206.00364).
    """

    def __init__(
        self, channels: int, width: int, in_time: Sequence[bool], cosines: int, *, filtered: bool = False
    ) -> None:
        """channels: Z; width: D; in_time: of each block, whether it looks along time; filtered: add a `Filter`."""
        super().__init__()
        self.noisy = Linear(channels, width)
        self.level = Linear(cosines, width, std=0.1)
        self.blocks = nn.ModuleList(DetailBlock(width, cosines, along) for along in in_time)
        self.modulation = Linear(cosines, 2 * width, std=0)
        self.out = Linear(width, channels, std=0)
        self.filter = Filter(channels, width, cosines) if filtered else None
        self.skip = Linear(cosines, channels, std=0)  # what is added to each channel's estimate, by noise level
        self.ending: Callable[[Detailer, Tensor, Tensor, Tensor], Tensor] = ending

    def forward(
        self,
        x_BTHWZ: Tensor,
        t_BTHW1: Tensor,
        known_BTHWD: Tensor,
        basis_BTHWR: Tensor,
        run: Callable[..., Tensor],
    ) -> Tensor:
        """(B, T, H, W, Z) float32. known: of each place; basis: over the noise levels t, in the type of the products.

        run: calls a block, compiled or not.
        """
        estimate_BTHWZ = x_BTHWZ.float() * (1 - t_BTHW1) / ((1 - t_BTHW1).square() + t_BTHW1.square())
        noisy_BTHWD = self.noisy(estimate_BTHWZ.to(basis_BTHWR.dtype))
        h_BTHWD = (noisy_BTHWD + known_BTHWD + self.level(basis_BTHWR)).float()
        for block in self.blocks:
            h_BTHWD = run(block, h_BTHWD, basis_BTHWR)
        end = self.ending if self.training else ending
        out = end(self, h_BTHWD, estimate_BTHWZ, basis_BTHWR)
        return out if self.filter is None else out + self.filter(estimate_BTHWZ, basis_BTHWR)


def ending(detailer: Detailer, h_BTHWD: Tensor, estimate_BTHWZ: Tensor, basis_BTHWR: Tensor) -> Tensor:
    """The estimate as the blocks correct it, float32."""
    scale, shift = detailer.modulation(basis_BTHWR).chunk(2, dim=-1)
    h_BTHWD = (norm(h_BTHWD) * (1 + scale) + shift).to(basis_BTHWR.dtype)
    out: Tensor = detailer.out(h_BTHWD).float() + (1 + detailer.skip(basis_BTHWR).float()) * estimate_BTHWZ
    return out
