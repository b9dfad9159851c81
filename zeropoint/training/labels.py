"""Labels: checks of what a classifier is trained on, before training and batch by batch."""

from typing import Any

import torch
from torch import Tensor

from zeropoint.data.batches import Loader, first_batch, innermost, split
from zeropoint.errors import InputError


def check_data(loader: Loader, classes: int | None = None, *, labelled: bool = True) -> None:
    """Raises InputError if the training data is less than a batch, or its first labels are wrong.

    Data that need not be ``labelled`` may have any targets, or none.
    """
    given = innermost(loader)
    data: Any = getattr(given, "dataset", None)
    size = getattr(given, "batch_size", None)
    if isinstance(size, int) and hasattr(data, "__len__") and len(data) < size:
        raise InputError(f"the training data has {len(data)} items, less than a batch of {size}; lower that")
    _, labels = split(first_batch(loader, "training"))
    if not labelled:
        return
    if labels is None:
        raise InputError("the training data has no labels; give batches of (inputs, labels), integers (N,)")
    if classes is not None:
        known = getattr(data, "targets", None)  # torchvision's data sets have all labels there
        check_labels(labels if known is None else torch.as_tensor(known), classes, "the training data")


def check_labels(labels: Any, classes: int, where: str, rows: int | None = None) -> None:
    """Raises InputError if labels are no class numbers (N,), or one is not from 0 to ``classes`` - 1.

    Of a batch there must be as many as ``rows``.
    """
    if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point():
        given = (
            f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        )
        raise InputError(f"{where} has labels {given}; give class numbers, integers (N,)")
    if rows is not None and len(labels) != rows:
        raise InputError(f"{where} has {len(labels)} labels for {rows} rows; give one for each")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise InputError(f"{where} has the label {wrong}; the model has classes 0 to {classes - 1}")
