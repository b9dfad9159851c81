"""Freed memory stays within, and goes back behind: by what the system says the process was given."""

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
    "Pages that the system hands out for 64 MiB when as much was freed before."
    torch.ones(1 << 24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with keeping_freed():
    print(fresh())
print(fresh())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep what is freed")
def test_memory_is_used_again_within_and_not_behind():
    # In a process of its own: what others have left in the heap decides, too.
    run = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True)
    within, behind = map(int, run.stdout.split())
    assert within < 10
    assert behind > within


def test_it_ends_with_an_error_as_well():
    with pytest.raises(ValueError, match="inside"), keeping_freed():
        raise ValueError("inside")
    with keeping_freed():
        assert torch.ones(3).sum() == 3
