"""Metrics of class numbers, for samples, pixels and tokens alike."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zeropoint.tasks.metric import Measure, Meter, Metric, Prepare, Sums, doubled, library
from zeropoint.tasks.outputs import classes, main

Loss = Callable[[Any, Any], Tensor]


def share(name: str, prepare: Prepare, needs_targets: bool = True) -> Metric:
    """The share of right ones. ``prepare`` gives what is right, and what counts, both of truth values."""

    def sums(right: Tensor, counted: Tensor) -> Tensor:
        return torch.stack([(right & counted).sum(), counted.sum()])

    return Metric(Measure(name, "%"), lambda *_: Sums(sums), prepare, needs_targets)


def accuracy(name: str, read: Prepare, axis: int, ignored: int | None = None, k: int = 1) -> Metric:
    """The share of labels that are among the ``k`` classes of the highest scores along ``axis``.

    ``read`` gives scores and class numbers, of which those that are ``ignored`` do not count.
    """

    def prepare(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        scores, labels = read(outputs, targets)
        counted = torch.ones_like(labels, dtype=torch.bool) if ignored is None else labels != ignored
        if k == 1:  # of equal scores the first, where topk takes any
            return scores.argmax(axis) == labels, counted
        best = scores.topk(min(k, scores.shape[axis]), dim=axis).indices
        return (best == labels.unsqueeze(axis)).any(axis), counted

    return share(name, prepare)


def f1(read: Prepare, axis: int, ignored: int | None = None) -> Metric:
    """The mean over classes of the F1 score; classes that occur nowhere and are never predicted do not count.

    ``read`` and ``ignored`` are those of ``accuracy``.
    """

    def start(outputs: Any, targets: Any) -> Meter:
        count = read(outputs, targets)[0].shape[axis]
        made = library("torchmetrics.classification").MulticlassF1Score
        return doubled(made(count, average="macro", ignore_index=ignored))

    return Metric(Measure("F1", "%"), start, predicted(read, axis))


def predicted(read: Prepare, axis: int) -> Prepare:
    """The class of the highest score in the place of the scores, and the class numbers."""

    def prepare(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        scores, labels = read(outputs, targets)
        return scores.argmax(axis), labels

    return prepare


def agreement(layout: str, name: str = "agreement", ignored: int | None = None) -> Metric:
    """The share of samples, pixels or tokens whose predicted class is the float network's.

    ``layout`` names the axes of the scores as in ``outputs.classes``. The targets are a pair: the outputs of
    the float network, and the targets of the data; where these are ``ignored`` nothing counts. Classes differ
    where an output holds NaN or infinity.
    """
    axis = layout.index("C")

    def prepare(outputs: Any, pair: Any) -> tuple[Tensor, Tensor]:
        scores, reference = main(outputs), main(pair[0])
        if reference.dim() != len(layout) or reference.shape[axis] < 2:
            nothing = torch.zeros(len(reference) if reference.dim() else 1, dtype=torch.bool)
            return nothing, nothing
        # argmax calls the first NaN the largest, so two broken outputs would "agree".
        finite = (torch.isfinite(scores) & torch.isfinite(reference)).all(axis)
        same = (scores.argmax(axis) == reference.argmax(axis)) & finite
        targets = pair[1]
        if ignored is None or not isinstance(targets, Tensor) or targets.shape != same.shape:
            return same, torch.ones_like(same)
        return same, targets.to(same.device) != ignored

    return share(name, prepare, needs_targets=False)


def cross_entropy(read: Prepare, axis: int, ignored: int = -100) -> Loss:
    """The mean cross-entropy in nats. ``read`` and ``ignored`` are those of ``accuracy``."""

    def loss(outputs: Any, targets: Any) -> Tensor:
        scores, labels = read(outputs, targets)
        return F.cross_entropy(scores.movedim(axis, 1), labels, ignore_index=ignored)

    return loss


def reader(layout: str, ignored: int | None = None) -> Prepare:
    """Scores with the axes that ``layout`` names, and class numbers, as ``outputs.classes`` gives them."""
    return lambda outputs, targets: classes(outputs, targets, layout, ignored)
