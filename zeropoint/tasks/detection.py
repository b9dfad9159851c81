"""Detection: boxes with scores and classes, as torchvision's detectors give them.

A batch's outputs are a list with a dict for each image: ``boxes`` (K, 4) as corners x1, y1, x2, y2,
``scores`` (K,) and ``labels`` (K,). Its targets are the same without scores. Where they have ``iscrowd``
(K,), a box of 1 is of many objects at once: mAP counts neither it nor what is found in it.
"""

import importlib.util
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zeropoint.errors import InputError
from zeropoint.tasks.answers import BOXES, SURE
from zeropoint.tasks.metric import Measure, Meter, Metric, Sums, library
from zeropoint.tasks.outputs import described
from zeropoint.tasks.task import Task

MATCHES = 0.9  # the intersection over union from which on two boxes are the same

CROWD = "iscrowd"

Boxes = list[dict[str, Tensor]]


def _boxes(value: Any, keys: tuple[str, ...], what: str) -> Boxes:
    fits = isinstance(value, tuple | list) and all(
        isinstance(one, Mapping) and all(isinstance(one.get(key), Tensor) for key in keys) for one in value
    )
    if not fits:
        fix = "; give --postprocess FILE.py:NAME, a function that makes it" if what == "outputs" else ""
        raise InputError(
            f"the {what} are {described(value)}, not a list with a dict of {', '.join(keys)} for each image"
            f"{fix}"
        )
    kept = (*keys, CROWD) if what == "targets" else keys
    return [{key: one[key].detach().cpu() for key in kept if key in one} for one in value]


def _pairs(outputs: Any, targets: Any) -> tuple[Boxes, Boxes]:
    found = _boxes(outputs, ("boxes", "scores", "labels"), "outputs")
    wanted = _boxes(targets, ("boxes", "labels"), "targets")
    if len(found) != len(wanted):
        raise InputError(f"there are boxes of {len(found)} images and targets of {len(wanted)}")
    return found, wanted


def _precision(name: str, key: str) -> Metric:
    """Mean average precision, in torchmetrics' terms; it keeps all boxes, since it ranks them."""

    def start(*_: Any) -> Meter:
        backend = "faster_coco_eval" if importlib.util.find_spec("faster_coco_eval") else "pycocotools"
        made: Meter = library("torchmetrics.detection").MeanAveragePrecision(backend=backend)
        return made

    def value(computed: dict[str, Tensor]) -> float:
        return float(computed[key]) if computed[key] >= 0 else math.nan  # -1: there are no boxes to find

    return Metric(Measure(name, "%"), start, _pairs, value=value)


def _matched(outputs: Any, pair: Any) -> tuple[Tensor, Tensor]:
    """For each image the number of boxes that match one of float32's, and how many there are."""
    found, reference = (_boxes(one, ("boxes", "scores", "labels"), "outputs") for one in (outputs, pair[0]))
    counts = [_matches(*images) for images in zip(found, reference, strict=True)]
    numbers = torch.tensor(counts, dtype=torch.float64).reshape(-1, 2)
    return numbers[:, 0], numbers[:, 1]


def _matches(found: dict[str, Tensor], reference: dict[str, Tensor]) -> tuple[int, int]:
    """How many sure boxes of an image match one to one, and the larger number of sure boxes of the two."""
    boxes, others = ({key: one[key][one["scores"] >= SURE] for key in one} for one in (found, reference))
    overlap = _overlaps(boxes["boxes"], others["boxes"])
    overlap[boxes["labels"][:, None] != others["labels"]] = 0
    matches = 0
    while overlap.numel() and overlap.max() >= MATCHES:
        row, column = divmod(int(overlap.argmax()), overlap.shape[1])
        overlap[row], overlap[:, column] = 0, 0
        matches += 1
    return matches, max(len(boxes["boxes"]), len(others["boxes"]))


def _overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of each two boxes."""
    low = torch.maximum(boxes[:, None, :2], others[:, :2])
    high = torch.minimum(boxes[:, None, 2:], others[:, 2:])
    common = (high - low).clamp(min=0).prod(2)
    areas = [(one[:, 2:] - one[:, :2]).prod(1) for one in (boxes, others)]
    return common / (areas[0][:, None] + areas[1] - common).clamp(min=1e-12)


DETECTION = Task(
    "detection",
    metrics=(_precision("mAP", "map"),),
    more=(_precision("mAP50", "map_50"), _precision("mAP75", "map_75")),
    fidelity=Metric(
        Measure("same boxes", "%"),
        lambda *_: Sums(lambda right, counted: torch.stack([right.sum(), counted.sum()])),
        _matched,
        needs_targets=False,
    ),
    reader=BOXES,
)
