"""Classification: of a sample into one class, or into several at once."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zeropoint.errors import InputError
from zeropoint.tasks.answers import CLASS, LABELS
from zeropoint.tasks.classes import accuracy, agreement, cross_entropy, f1, reader, share
from zeropoint.tasks.metric import Measure, Meter, Metric, doubled, library
from zeropoint.tasks.outputs import FIX, described, main, values
from zeropoint.tasks.task import Task

THRESHOLDS = 200  # of AUROC: an exact curve would keep all scores

_scores = reader("NC")


def _auroc(outputs: Any, targets: Any) -> Meter:
    made = library("torchmetrics.classification").MulticlassAUROC
    return doubled(made(_scores(outputs, targets)[0].shape[1], thresholds=THRESHOLDS))


def _probabilities(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    scores, labels = _scores(outputs, targets)
    return scores.float().softmax(1), labels


CLASSIFICATION, TEXT = (
    Task(
        name,
        metrics=(accuracy("top-1", _scores, 1),),
        more=(
            accuracy("top-5", _scores, 1, k=5),
            f1(_scores, 1),
            Metric(Measure("AUROC"), _auroc, _probabilities),
        ),
        fidelity=agreement("NC"),
        loss=cross_entropy(_scores, 1),
        reader=CLASS,
    )
    for name in ("classification", "text-classification")
)


def _labels(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Logits (N, C) as probabilities, and 1 or 0 for each."""
    logits, labels = values(outputs, targets)
    if logits.dim() != 2:
        raise InputError(f"the outputs are {described(logits)}, not logits (N, C); {FIX}")
    if logits.numel() > 1 and logits.min() >= 0 and logits.max() <= 1:
        raise InputError(
            "the outputs are all from 0 to 1, and multi-label reads logits; if they are probabilities, give"
            " --postprocess FILE.py:NAME, a function that calls torch.logit"
        )
    if ((labels != 0) & (labels != 1)).any():
        raise InputError(f"the targets hold other numbers than 0 and 1; {FIX}")
    return logits.sigmoid(), labels.long()


def _of_labels(name: str, **options: Any) -> Callable[[Any, Any], Meter]:
    def start(outputs: Any, targets: Any) -> Meter:
        made = getattr(library("torchmetrics.classification"), name)
        return doubled(made(_labels(outputs, targets)[0].shape[1], **options))

    return start


def _same_labels(outputs: Any, pair: Any) -> tuple[Tensor, Tensor]:
    """Whether all labels of a sample are those of the float network."""
    logits, reference = main(outputs), main(pair[0])
    finite = torch.isfinite(logits) & torch.isfinite(reference)
    same = (((logits > 0) == (reference > 0)) & finite).flatten(1).all(1)
    return same, torch.ones_like(same)


MULTILABEL = Task(
    "multi-label",
    metrics=(Metric(Measure("F1", "%"), _of_labels("MultilabelF1Score"), _labels),),
    more=(Metric(Measure("AUROC"), _of_labels("MultilabelAUROC", thresholds=THRESHOLDS), _labels),),
    fidelity=share("same labels", _same_labels, needs_targets=False),
    loss=lambda outputs, targets: F.binary_cross_entropy_with_logits(*values(outputs, targets)),
    reader=LABELS,
)
