"""Segmentation: a class for every pixel."""

from typing import Any

from torch import Tensor

from zeropoint.tasks.answers import PIXELS
from zeropoint.tasks.classes import accuracy, agreement, cross_entropy, predicted
from zeropoint.tasks.metric import Measure, Meter, Metric, doubled, library
from zeropoint.tasks.outputs import classes, main
from zeropoint.tasks.task import Task

BORDER = 255  # the number of pixels without a class in Pascal VOC and others, if there are fewer classes
NONE = -1  # their number here


def _pixels(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Scores (N, C, H, W) and classes (N, H, W)."""
    scores = main(outputs)
    has_border = scores.dim() == 4 and scores.shape[1] <= BORDER
    if has_border and isinstance(targets, Tensor) and not targets.is_floating_point():
        targets = targets.long().masked_fill(targets == BORDER, NONE)
    return classes(scores, targets, "NCHW", NONE)


def _iou(outputs: Any, targets: Any) -> Meter:
    made = library("torchmetrics.classification").MulticlassJaccardIndex
    return doubled(made(_pixels(outputs, targets)[0].shape[1], average="macro", ignore_index=NONE))


SEGMENTATION = Task(
    "segmentation",
    metrics=(Metric(Measure("mIoU", "%"), _iou, predicted(_pixels, 1)),),
    more=(accuracy("pixel accuracy", _pixels, 1, NONE),),
    fidelity=agreement("NCHW", "same pixels"),
    loss=cross_entropy(_pixels, 1, NONE),
    reader=PIXELS,
)
