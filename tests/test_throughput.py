import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource

import torch

from phonofilm.train.throughput import keep_memory

if {keep}:
    keep_memory()


def touch() -> None:
    torch.zeros(16_000_000).add_(1)  # 64 MB


touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc tells how")
def test_memory_that_is_kept_does_not_come_from_the_system_again() -> None:
    faults = {
        keep: int(
            subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], check=True, capture_output=True).stdout
        )
        for keep in (False, True)
    }
    assert faults[True] < faults[False] / 5, faults
