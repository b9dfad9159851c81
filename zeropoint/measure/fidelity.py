"""Fidelity: how close a model's outputs are to a reference's, batch by batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zeropoint.tasks import NONE
from zeropoint.tasks.metric import Metric, Score


@dataclass(frozen=True)
class Fidelity:
    """Closeness to the reference.

    ``agreement``: the fidelity of the task, such as the fraction of samples with the same predicted class;
    None where the task has none, or the outputs are none that it reads. Without a task it is that of a first
    output (N, classes) with at least two classes.

    ``sqnr_db``: the signal-to-quantization-noise ratio over all outputs and samples,
    10 log10(Σ reference² / Σ (reference - output)²). Infinite if the outputs are identical, minus infinity
    if only the reference is all zero, NaN if an output of either holds NaN or infinity.
    """

    agreement: float | None
    sqnr_db: float


class FidelityMeter:
    """Adds up signal, noise, and what the task's fidelity needs; memory does not grow with the data."""

    def __init__(self, metric: Metric | None = NONE.fidelity) -> None:
        self._signal = 0.0
        self._noise = 0.0
        self.score = Score(metric) if metric else None

    def add(
        self, reference: Sequence[Tensor], outputs: Sequence[Tensor], read: tuple[Any, Any, Any] | None = None
    ) -> tuple[Any, ...]:
        """Counts one batch: both models' outputs, tensors of equal shapes in the same order.

        ``read`` has what the task's fidelity reads: the outputs, those of the reference and the targets of
        the data; without it they are these tensors. Returns what its meter was updated with.

        Raises ValueError if the shapes or the number of outputs differ (they would broadcast silently).
        """
        shapes = [tuple(tensor.shape) for tensor in reference], [tuple(tensor.shape) for tensor in outputs]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"outputs of shapes {shapes[1]} cannot be compared with a reference of {shapes[0]}"
            )
        for expected, actual in zip(reference, outputs, strict=True):
            signal = expected.detach().double()
            self._signal += float(signal.square().sum())
            self._noise += float((signal - actual.detach().double()).square().sum())
        own, other, targets = read or (tuple(outputs), tuple(reference), None)
        return self.score.add(own, (other, targets)) if self.score else ()

    def result(self) -> Fidelity:
        """The fidelity over all batches added so far."""
        value = self.score.value() if self.score else None
        known = value is not None and math.isfinite(value)
        return Fidelity(value if known else None, _decibels(self._signal, self._noise))


def _decibels(signal: float, noise: float) -> float:
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return math.nan
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
