"""Random inputs, for what needs no real data: latency, size, and trying things out."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from zeropoint.data.loaders import Loaders
from zeropoint.errors import InputError

BATCHES = 8  # for calibration, and as many for evaluation


@dataclass(frozen=True)
class Noise:
    """Re-iterable batches of standard normal float32 inputs (batch_size, *shape), made one at a time."""

    shape: tuple[int, ...]
    batch_size: int
    first_seed: int

    def __iter__(self) -> Iterator[Tensor]:
        for index in range(BATCHES):
            generator = torch.Generator().manual_seed(self.first_seed + index)
            yield torch.randn(self.batch_size, *self.shape, generator=generator)

    def __len__(self) -> int:
        return BATCHES


def noise(size: str, default_shape: tuple[int, ...], batch_size: int, seed: int) -> Loaders:
    """Unlabeled random inputs of the shape that ``size`` writes as ``3x32x32``, or of the default one.

    Raises InputError if ``size`` is not a shape.
    """
    if size and not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", size):
        raise InputError(f"random:{size} is no shape; give sizes without the batch, as in random:3x32x32")
    shape = tuple(int(part) for part in size.split("x")) if size else default_shape
    name = f"random:{'x'.join(map(str, shape))}"
    calibration, evaluation = (Noise(shape, batch_size, seed + start) for start in (0, BATCHES))
    return Loaders(name, calibration, evaluation)
