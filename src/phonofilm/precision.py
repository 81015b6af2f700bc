"""In which number format this machine multiplies matrices fastest."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def native_type(device: str | torch.device | None = None) -> torch.dtype:
    """bfloat16 where matrix products and convolutions are faster in it than in float32, else float32.

    device: on which they are computed; None: a GPU if there is one. A processor is asked what it has: without
    instructions for bfloat16 its convolutions run 60 times slower in it (measured on AVX2), not faster.
    """
    kind = torch.device(device).type if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if kind == "cpu" and _cpu_has_bf16() else torch.float32


def _cpu_has_bf16() -> bool:
    """oneDNN takes bfloat16 on any AVX512, by emulation; only these have instructions for it."""
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def mixed(device: str | torch.device, bf16: bool | None = None) -> AbstractContextManager[Any]:
    """A context in which products of float32 weights are computed in bfloat16. bf16: None: if that is faster."""
    kind = torch.device(device).type
    wanted = native_type(kind) == torch.bfloat16 if bf16 is None else bf16
    return torch.autocast(kind, torch.bfloat16) if wanted else nullcontext()
