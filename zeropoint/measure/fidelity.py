"""Fidelity: how close a model's outputs are to a reference's, batch by batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Fidelity:
    """Closeness to the reference.

    ``agreement``: the fraction of images with the same predicted class; None unless the first output is
    (N, classes) with at least two classes. Outputs of more dimensions have none: which dimension holds the
    classes differs from model to model (1 in segmentation, the last in language).

    ``sqnr_db``: the signal-to-quantization-noise ratio over all outputs and images,
    10 log10(Σ reference² / Σ (reference - output)²). Infinite if the outputs are identical, minus infinity
    if only the reference is all zero, NaN if an output of either holds NaN or infinity.
    """

    agreement: float | None
    sqnr_db: float


class FidelityMeter:
    """Adds up signal, noise and agreeing classes; memory does not grow with the data."""

    def __init__(self) -> None:
        self._signal = 0.0
        self._noise = 0.0
        self._images = 0
        self._agreeing = 0

    def add(self, reference: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Counts one batch: both models' outputs, tensors of equal shapes in the same order.

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
        expected, actual = reference[0], outputs[0]
        if expected.ndim == 2 and expected.shape[1] > 1:
            self._images += len(expected)
            # argmax calls the first NaN the largest, so two broken outputs would "agree".
            finite = (torch.isfinite(expected) & torch.isfinite(actual)).all(1)
            self._agreeing += int(((expected.argmax(1) == actual.argmax(1)) & finite).sum())

    def result(self) -> Fidelity:
        """The fidelity over all batches added so far."""
        agreement = self._agreeing / self._images if self._images else None
        return Fidelity(agreement, _decibels(self._signal, self._noise))


def _decibels(signal: float, noise: float) -> float:
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return math.nan
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
