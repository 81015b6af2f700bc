"""What the networks of the denoiser share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """Linear map without bias whose float32 weight is used in the type of its input; `std` 0 starts as zero."""

    def __init__(self, fan_in: int, fan_out: int, std: float | None = None) -> None:
        super().__init__(fan_in, fan_out, bias=False)
        nn.init.normal_(self.weight, std=fan_in**-0.5 if std is None else std)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def norm(x: Tensor) -> Tensor:
    """Layer norm over the last axis, without parameters."""
    return F.layer_norm(x, x.shape[-1:])
