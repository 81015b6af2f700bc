"""How fast a training is, against what the machine can do."""

from __future__ import annotations

import ctypes
import shutil
import statistics
import sys
import time

import torch
import torch.nn.functional as F

from phonofilm.model.denoiser import DenoiserConfig

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h: bytes that may lie free at the heap's end; pieces mapped apart


def matrix_rate(config: DenoiserConfig, dtype: torch.dtype, device: torch.device, rows: int = 8192) -> float:
    """Median FLOPs a second of the model's largest matrix product, width to expansion x width, over `rows` tokens."""
    x = torch.randn(rows, config.width, device=device).to(dtype)
    weight = torch.randn(config.expansion * config.width, config.width, device=device).to(dtype)
    times = []
    for _ in range(32):
        _wait(device)
        start = time.perf_counter()
        F.linear(x, weight)
        _wait(device)
        times.append(time.perf_counter() - start)
    return 2.0 * rows * weight.numel() / statistics.median(times)


def keep_memory() -> None:
    """Let this process keep the memory that it frees, where its C library is glibc, which tells how.

    A step of training asks for the same large tensors again and again. By default each comes from the system anew, page
    by page, all of them zeroed: a fifth of a step of 32 clips went there, 112,000 page faults. See mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)


def can_compile(device: torch.device) -> bool:
    """True if `torch.compile` has what it needs: on a CPU, a C++ compiler."""
    return device.type != "cpu" or any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
