"""Labels: checks of what a classifier is trained on, before training and batch by batch."""

from typing import Any

import torch
from torch import Tensor

from zeropoint.data.batches import Loader, check, split
from zeropoint.errors import InputError


def check_data(loader: Loader, classes: int | None = None, *, labelled: bool = True) -> None:
    """Raises InputError if the training data is less than a batch, or its first labels are wrong.

    Data that need not be ``labelled`` may have any targets, or none.
    """
    data: Any = getattr(loader, "dataset", None)
    size = getattr(loader, "batch_size", None)
    if isinstance(size, int) and hasattr(data, "__len__") and len(data) < size:
        raise InputError(f"the training data has {len(data)} items, less than a batch of {size}; lower that")
    check(loader, "the training loader")
    for batch in loader:
        _, labels = split(batch)
        break
    else:
        raise InputError("the training loader yields no batch; give it at least one")
    if not labelled:
        return
    if labels is None:
        raise InputError("the training data has no labels; give batches of (inputs, labels)")
    if classes is not None:
        known = getattr(data, "targets", None)  # torchvision's data sets have all labels there
        check_labels(labels if known is None else torch.as_tensor(known), classes, "the training data")


def check_labels(labels: Tensor, classes: int, where: str) -> None:
    """Raises InputError if a label is not from 0 to ``classes`` - 1."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise InputError(f"{where} has the label {wrong}; the model has classes 0 to {classes - 1}")
