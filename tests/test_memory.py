"""Freed memory is used again within: by what the system says it has handed to the process."""

import platform
import subprocess
import sys

import pytest
import torch

from zeropoint.memory import keeping_freed

PAGES = """
import resource, torch
from zeropoint.memory import keeping_freed

def fresh() -> int:
    "Pages that the system hands out for tensors of 8 to 32 MiB, the second time they are made."
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for size in [1 << 21, 1 << 22, 1 << 23] * 10:
            held = torch.ones(size), torch.ones(size)
            del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(fresh())
with keeping_freed():
    print(fresh())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep what is freed")
def test_memory_is_used_again_within():
    # In a process of its own: what others have left in the heap decides, too.
    run = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True)
    by_itself, within = map(int, run.stdout.split())
    assert within < by_itself / 10


def test_it_ends_with_an_error_as_well():
    with pytest.raises(ValueError, match="inside"), keeping_freed():
        raise ValueError("inside")
    with keeping_freed():
        assert torch.ones(3).sum() == 3
