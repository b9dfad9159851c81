"""Freed memory stays within, and goes back behind: by what the system says the process holds."""

import platform
import resource

import pytest
import torch

from zeropoint.memory import keeping_freed

LARGE = 64 << 20  # bytes; malloc asks the system anew for each by itself


def faults() -> int:
    """Pages that the system has handed to this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def fresh_pages() -> int:
    """Those that a large tensor takes when the same was freed before it."""
    torch.ones(LARGE // 4)
    before = faults()
    torch.ones(LARGE // 4)
    return faults() - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep what is freed")
def test_memory_is_used_again_within_and_not_behind():
    pages = LARGE // resource.getpagesize()
    with keeping_freed():
        within = fresh_pages()
    assert within < pages / 1000
    assert fresh_pages() > within


def test_it_ends_with_an_error_as_well():
    with pytest.raises(ValueError, match="inside"), keeping_freed():
        raise ValueError("inside")
    with keeping_freed():
        assert torch.ones(3).sum() == 3
