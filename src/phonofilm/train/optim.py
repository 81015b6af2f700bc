"""Optimizers: Muon on the matrices of the blocks, AdamW on the rest, and an average of the weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from phonofilm.precision import native_type

_MATRIX = re.compile(r"(^|\.)blocks\.\d+\.(qkv|out|up|down)\.weight$")


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(matrices of the blocks, all the rest) of the parameters that learn."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (matrices if _MATRIX.search(name) else rest).append(parameter)
    return matrices, rest


def orthogonal(x_NRC: Tensor, compute: torch.dtype = torch.float32) -> Tensor:
    """The matrices with the same singular vectors and singular values all near 1 (0.7 to 1.2), in float32.

    Newton-Schulz iteration of K. Jordan (2024). In float32 it runs on the small Gram matrices: all factors are
    polynomials of these and commute, so that wide matrices are touched only twice. In bfloat16 Gram matrices would lose
    small singular values, and it runs on the matrices themselves.
    """
    flip = x_NRC.shape[-2] > x_NRC.shape[-1]
    wide = x_NRC.mT if flip else x_NRC
    wide = (wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-12)).to(compute)
    if compute == torch.float32:
        gram = wide @ wide.mT
        one = torch.eye(gram.shape[-1], device=wide.device)
        total = one
        for _ in range(5):
            factor = 3.4445 * one - 4.7750 * gram + 2.0315 * (gram @ gram)
            total = factor @ total
            gram = factor @ gram @ factor
        wide = total @ wide
    else:
        wide = wide.contiguous()
        for _ in range(5):
            gram = wide @ wide.mT
            polynomial = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
            wide = torch.baddbmm(wide, polynomial, wide, beta=3.4445)
    result: Tensor = wide.mT if flip else wide
    return result.float()


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal (K. Jordan 2024, kellerjordan.github.io/posts/muon; Nesterov's form).

    All matrices of one shape go through the iteration together: on a GPU the several thousand small products of
    one step, one after the other, took longer than the step's gradients. A convolution counts as a matrix (out,
    in * kernel).
    """

    def __init__(
        self,
        params: Sequence[nn.Parameter],
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,  # decoupled
        like_adam: bool = False,  # steps of Adam's size, 0.2 sqrt(longer side) (2502.16982); else sqrt(rows / columns)
        compute: torch.dtype = torch.bfloat16,  # of the iteration
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.like_adam, self.compute = like_adam, compute

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault((p.shape[0], p[0].numel()), []).append(p)
            for (rows, columns), params in alike.items():
                for p in params:
                    if not self.state[p]:
                        self.state[p]["momentum"] = torch.zeros_like(p)
                moments, grads = (
                    [self.state[p]["momentum"] for p in params],
                    [p.grad for p in params if p.grad is not None],
                )
                torch._foreach_lerp_(moments, grads, 1 - group["momentum"])
                stacked = torch.stack(torch._foreach_lerp(grads, moments, group["momentum"])).flatten(2)
                updates = orthogonal(stacked, self.compute).unbind()
                if group["weight_decay"]:
                    torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                size = 0.2 * max(rows, columns) ** 0.5 if self.like_adam else max(1.0, rows / columns) ** 0.5
                turned = [u.view_as(p) for u, p in zip(updates, params, strict=True)]
                torch._foreach_add_(params, turned, alpha=-group["lr"] * size)


class Optimizers:
    """Muon (2502.16982, Keller Jordan 2024) and AdamW (1711.05101) as one.

    In a trial Muon reached on the block matrices in 340 steps what AdamW needed 500 for.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        muon_rate: float = 0.02,  # times sqrt(max(1, rows / columns)) of each matrix
        muon_decay: float = 0.01,  # decoupled weight decay
        adamw_rate: float = 2e-3,
        adamw_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),  # of AdamW
    ) -> None:
        matrices, rest = split_parameters(model)
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            compute = native_type(matrices[0].device)  # bfloat16 without instructions for it took ten steps' time
            self.parts.append(Muon(matrices, lr=muon_rate, weight_decay=muon_decay, compute=compute))
        if rest:
            fused = rest[0].device.type != "cpu"
            self.parts.append(
                torch.optim.AdamW(rest, lr=adamw_rate, weight_decay=adamw_decay, betas=betas, fused=fused)
            )
        self._rates = [[float(group["lr"]) for group in part.param_groups] for part in self.parts]

    def step(self, factor: float = 1.0) -> None:
        """Update the weights at `factor` times the learning rates, and drop the gradients."""
        for part, rates in zip(self.parts, self._rates, strict=True):
            for group, rate in zip(part.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


class Average:
    """Exponential moving average of a model's weights, float32; young averages forget faster."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"an average with decay {decay} is not possible: it must be in [0, 1)")
        self.decay = decay
        self.updates = 0
        self._model = model
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        forget = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.weights.values()), [p.detach() for p in self._model.parameters()], forget)

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The model with the averaged weights in it, in evaluation mode; its own come back afterwards."""
        own = {name: p.detach().clone() for name, p in self._model.named_parameters()}
        training = self._model.training
        try:
            self._put(self.weights)
            yield self._model.eval()
        finally:
            self._put(own)
            self._model.train(training)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = int(state["updates"])
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(state["weights"][name])

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self._model.named_parameters():
            parameter.copy_(weights[name])
