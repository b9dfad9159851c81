"""Rows: one tensor of many items, in memory or in a file."""

import math
import tempfile

import numpy as np
import torch
from torch import Tensor


class Rows:
    """Room for ``most`` rows of the shape of those of ``like``, filled in order; in a file if ``spilled``.

    The file has no name, so that it is gone with its user whatever happens. It is mapped only while rows are
    read or written, so that they do not stay in memory.
    """

    def __init__(self, most: int, like: Tensor, *, spilled: bool) -> None:
        self.shape, self.dtype = (most, *like.shape[1:]), like.dtype
        self._count = 0
        self._file = tempfile.TemporaryFile() if spilled else None  # noqa: SIM115
        self._tensor = None if spilled else torch.empty(self.shape, dtype=self.dtype)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, chosen: Tensor) -> Tensor:
        """A copy of the rows of these indices."""
        return self._all()[chosen]

    def append(self, rows: Tensor) -> None:
        """Appends rows, as many as there is room for."""
        rows = rows[: self.shape[0] - self._count]
        self._all()[self._count : self._count + len(rows)] = rows
        self._count += len(rows)

    def _all(self) -> Tensor:
        if self._tensor is not None:
            return self._tensor
        size = math.prod(self.shape) * self.dtype.itemsize
        # As bytes: NumPy has no bfloat16.
        mapped = np.memmap(self._file, np.uint8, "r+", shape=(size,))  # type: ignore[call-overload]
        return torch.from_numpy(mapped).view(self.dtype).view(self.shape)
