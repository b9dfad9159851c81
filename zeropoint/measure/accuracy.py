"""Top-1 accuracy and mean cross-entropy loss, batch by batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zeropoint.errors import InputError


@dataclass(frozen=True)
class Accuracy:
    """``top1`` (a fraction of 1) and mean ``loss`` (nats) over a data set; None if it has no labels."""

    top1: float | None
    loss: float | None
    images: int


class AccuracyMeter:
    """Adds up hits and losses; memory does not grow with the data."""

    def __init__(self) -> None:
        self._batches = 0
        self._images = 0
        self._labelled = 0
        self._hits = 0
        self._loss = 0.0

    def add(self, logits: Tensor, labels: Tensor | None) -> None:
        """Counts one batch: logits (N, classes), labels (N,) of an integer dtype, or None.

        Raises InputError if a label is not a class of the model, or the shapes do not belong together.
        """
        self._batches += 1
        self._images += len(logits)
        if labels is None:
            return
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
            given = f"{labels.dtype} tensor" if isinstance(labels, Tensor) else type(labels).__name__
            raise InputError(
                f"batch {self._batches} has a {given} for labels; top-1 needs one class number per row"
            )
        labels = labels.detach().reshape(-1).to(logits.device, torch.int64)
        _check(logits, labels, self._batches)
        self._labelled += len(labels)
        self._hits += int((logits.argmax(1) == labels).sum())
        # In float64: a sum over a whole data set in float32 loses digits.
        self._loss += float(
            torch.nn.functional.cross_entropy(logits.detach().double(), labels, reduction="sum")
        )

    def result(self) -> Accuracy:
        """The accuracy over all batches added so far."""
        if not self._labelled:
            return Accuracy(None, None, self._images)
        return Accuracy(self._hits / self._labelled, self._loss / self._labelled, self._images)


def _check(logits: Tensor, labels: Tensor, batch: int) -> None:
    if logits.ndim != 2 or len(logits) != len(labels):
        raise InputError(
            f"batch {batch} has {len(labels)} labels but the model's first output has shape "
            f"{tuple(logits.shape)}: accuracy needs one label per row of (N, classes); "
            "give data that fits, or leave the labels out"
        )
    classes = logits.shape[1]
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise InputError(
            f"label {int(outside[0])} in batch {batch} is out of range: the model has {classes} classes "
            f"(0 to {classes - 1}); give labels of this model's classes"
        )
