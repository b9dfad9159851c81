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

    ``outputs_db``: the signal-to-quantization-noise ratio of each output over all samples, 10 log10(Σ
    reference² / Σ (reference - output)²). Infinite if they are identical, minus infinity if only the
    reference is all zero, NaN if either holds NaN, or infinity where the other does not. It is None for
    integers, such as the numbers of classes, beside floating-point outputs.

    ``sqnr_db``: the least of them; outputs of which the reference is all zero count only if no other one is.
    """

    agreement: float | None
    sqnr_db: float
    outputs_db: tuple[float | None, ...] = ()


class FidelityMeter:
    """Adds up signal, noise, and what the task's fidelity needs; memory does not grow with the data."""

    def __init__(self, metric: Metric | None = NONE.fidelity) -> None:
        self._powers: list[tuple[float, float]] = []  # of signal and noise, for each output
        self._are_counted: list[bool] = []
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
        if not self._powers:
            self._powers = [(0.0, 0.0)] * len(reference)
            floats = [tensor.is_floating_point() for tensor in reference]
            self._are_counted = floats if any(floats) else [True] * len(floats)
        for number, pair in enumerate(zip(reference, outputs, strict=True)):
            if self._are_counted[number]:
                signal, noise = _powers(*pair)
                before = self._powers[number]
                self._powers[number] = before[0] + signal, before[1] + noise
        own, other, targets = read or (tuple(outputs), tuple(reference), None)
        return self.score.add(own, (other, targets)) if self.score else ()

    def result(self) -> Fidelity:
        """The fidelity over all batches added so far."""
        value = self.score.value() if self.score else None
        known = value is not None and math.isfinite(value)
        every = tuple(
            _decibels(*powers) if is_counted else None
            for powers, is_counted in zip(self._powers, self._are_counted, strict=True)
        )
        counted = [one for one in every if one is not None]
        told = [one for one in counted if one > -math.inf or math.isnan(one)] or counted
        least = next((one for one in told if math.isnan(one)), min(told, default=math.inf))
        return Fidelity(value if known else None, least, every)


def _powers(reference: Tensor, output: Tensor) -> tuple[float, float]:
    """The power of the signal and of the noise, without what is infinite in both, such as a mask."""
    signal = reference.detach().double()
    noise = signal - output.detach().double()
    if not signal.isfinite().all():
        same = signal.isinf() & (signal == output)
        signal, noise = signal.masked_fill(same, 0.0), noise.masked_fill(same, 0.0)
    return float(signal.square().sum()), float(noise.square().sum())


def _decibels(signal: float, noise: float) -> float:
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return math.nan
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
