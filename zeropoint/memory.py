"""Memory that is freed and soon needed again: kept by the process, not handed to the system in between."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# What ``mallopt`` calls them in glibc's malloc.h, and values beyond any tensor.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
EVERYTHING = 1 << 30
# What glibc itself comes to once a program has freed a block of the largest size that it watches: mallopt(3).
USUAL_TRIM, USUAL_MMAP = 64 << 20, 32 << 20


@contextmanager
def keeping_freed() -> Iterator[None]:
    """Freed memory stays with the process within it, and goes back behind; of functions it is a decorator.

    Every large tensor is fresh memory otherwise, which the system clears page by page: a fifth of the time of
    ResNet-50 on batches of eight, a seventh of a step of training MobileNetV2. Around single passes, not all
    of them together: what one leaves in pieces would add to the peak of the next, 100 MB more or less. Does
    nothing where the C library is not glibc.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None  # Windows has none to give
    if not hasattr(library, "gnu_get_libc_version"):
        yield
        return
    assert library is not None
    library.mallopt(MMAP_THRESHOLD, EVERYTHING)
    library.mallopt(TRIM_THRESHOLD, EVERYTHING)
    try:
        yield
    finally:
        library.mallopt(MMAP_THRESHOLD, USUAL_MMAP)
        library.mallopt(TRIM_THRESHOLD, USUAL_TRIM)
        library.malloc_trim(0)
