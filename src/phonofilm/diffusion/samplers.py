"""The samplers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from phonofilm.diffusion.adams import Adams
from phonofilm.diffusion.euler import Euler
from phonofilm.diffusion.heun import Heun
from phonofilm.diffusion.sampler import Sampler

SAMPLERS: Final[dict[str, Callable[[], Sampler]]] = {"euler": Euler, "heun": Heun, "adams": Adams}
"""`adams` is of order 2; `heun` asks the denoiser twice a step."""
