"""How fast a training is, against what the machine can do."""

from __future__ import annotations

import shutil
import statistics
import time

import torch
import torch.nn.functional as F

from phonofilm.model.denoiser import DenoiserConfig


def matrix_rate(config: DenoiserConfig, dtype: torch.dtype, device: torch.device, rows: int = 8192) -> float:
    """Median FLOPs a second of the model's largest matrix product, width to expansion x width, over `rows` tokens."""
    x = torch.randn(rows, config.width, device=device).to(dtype)
    weight = torch.randn(config.expansion * config.width, config.width, device=device).to(dtype)
    times = []
    for _ in range(8):
        _wait(device)
        start = time.perf_counter()
        F.linear(x, weight)
        _wait(device)
        times.append(time.perf_counter() - start)
    return 2.0 * rows * weight.numel() / statistics.median(times)


def can_compile(device: torch.device) -> bool:
    """True if `torch.compile` has what it needs: on a CPU, a C++ compiler."""
    return device.type != "cpu" or any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
