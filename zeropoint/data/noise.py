"""Random inputs, for what needs no real data: latency, size, and trying things out."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from zeropoint.data.batches import Batch, shapes
from zeropoint.data.loaders import Loaders
from zeropoint.errors import InputError
from zeropoint.models.source import RandomInputs, normal

BATCHES = 8  # for calibration, and as many for evaluation
DEFAULT = normal(3, 224, 224)


@dataclass(frozen=True)
class Noise:
    """Re-iterable batches of ``batch_size`` random inputs, made one at a time."""

    inputs: RandomInputs
    batch_size: int
    first_seed: int

    def __iter__(self) -> Iterator[Batch]:
        for index in range(BATCHES):
            yield self.inputs(self.batch_size, torch.Generator().manual_seed(self.first_seed + index))

    def __len__(self) -> int:
        return BATCHES


def noise(size: str, inputs: RandomInputs | None, batch_size: int, seed: int) -> Loaders:
    """Unlabeled random inputs: normal ones of the shape that ``size`` writes as ``3x32x32``, or ``inputs``.

    Raises InputError if ``size`` is not a shape.
    """
    if size and not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", size):
        raise InputError(f"random:{size} is no shape; give sizes without the batch, as in random:3x32x32")
    make = normal(*map(int, size.split("x"))) if size else inputs or DEFAULT
    one = make(1, torch.Generator())
    name = f"random:{'x'.join(map(str, one.shape[1:]))}" if isinstance(one, Tensor) else "random"
    calibration, evaluation = (Noise(make, batch_size, seed + start) for start in (0, BATCHES))
    return Loaders(name, calibration, evaluation, description=f"random inputs such as {shapes(one)}")
