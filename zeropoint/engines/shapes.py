"""Shapes: runs that are compiled for the shapes of their inputs, and example inputs of given shapes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zeropoint.engines.engine import KEPT, Run

Shapes = tuple[tuple[int, ...], ...]


def by_shape(compile: Callable[[Shapes | None], Run], kept: int = KEPT) -> Run:
    """A run that is compiled for the shapes of its inputs when it first meets them.

    ``compile`` is given the shapes, or None for all shapes. After the first ``kept`` shapes one run for all
    shapes takes the rest, so that neither time nor memory grow with the data.
    """
    runs: dict[Shapes | None, Run] = {}

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        shapes: Shapes | None = tuple(tuple(tensor.shape) for tensor in inputs)
        if shapes not in runs:
            shapes = shapes if len(runs) < kept else None
            if shapes not in runs:
                runs[shapes] = compile(shapes)
        return runs[shapes](*inputs)

    return run


def stand_in(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A seeded example input: standard normal, or zeros for a dtype that is not floating point."""
    if dtype.is_floating_point:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return torch.zeros(shape, dtype=dtype)


def stand_ins(
    inputs: Iterable[tuple[Sequence[int | None], Any]], batch_size: int
) -> tuple[Tensor, ...] | None:
    """Example inputs of these shapes and NumPy types; a size None is free, and at axis 0 it is the batch.

    None if a size at another axis is free.
    """
    made = []
    for sizes, dtype in inputs:
        shape = [batch_size if size is None and axis == 0 else size for axis, size in enumerate(sizes)]
        known = [size for size in shape if size is not None]
        if len(known) < len(shape):
            return None
        made.append(stand_in(known, torch.from_numpy(np.empty(0, dtype)).dtype))
    return tuple(made)
