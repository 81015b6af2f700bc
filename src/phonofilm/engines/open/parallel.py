"""One film on several GPUs: started by `torchrun`, the processes share out the tokens of each step.

Every process makes the whole film, but for the blocks of the network, where each has its part of the sequence and all
see each other in attention (context parallelism: DeepSpeed-Ulysses, 2309.14509, as diffusers has it).
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from phonofilm.engines.open.families import FAMILIES, Family
from phonofilm.engines.open.watch import networks
from phonofilm.errors import InputError


def processes() -> int:
    """How many make this film together; 1 without `torchrun`."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def helping() -> bool:
    """Whether another process writes the film."""
    return processes() > 1 and int(os.environ.get("RANK", "0")) > 0


def share(pipe: Any, family: Family) -> None:
    """Let this process do its part of each step.

    Raises InputError for a family that cannot be shared out, and where there are fewer GPUs than processes.
    """
    import torch
    from torch import distributed

    count = processes()
    if not family.shared:
        able = ", ".join(other.title for other in FAMILIES if other.shared)
        raise InputError(f"{family.title} cannot be shared out over several processes; families that can: {able}")
    if not distributed.is_initialized():
        here = torch.accelerator.device_count()
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= here:
            raise InputError(f"{count} processes need as many GPUs; this computer has {here}", "device")
        if torch.cuda.is_available():
            torch.cuda.set_device(local)
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    diffusers = importlib.import_module("diffusers")
    for network in networks(pipe):
        network.enable_parallelism(config=diffusers.ContextParallelConfig(ulysses_degree=count, ulysses_anything=True))
