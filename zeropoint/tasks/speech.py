"""Speech recognition: texts, or scores decoded by the greedy rule of CTC (Graves et al., 2006)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zeropoint.errors import InputError
from zeropoint.tasks.answers import Answer, Reader
from zeropoint.tasks.classes import agreement
from zeropoint.tasks.metric import Measure, Meter, Metric, doubled, library
from zeropoint.tasks.outputs import FIX, described, main
from zeropoint.tasks.task import Task

BLANK = 0


def ctc(scores: Tensor, vocabulary: Sequence[str] | None = None) -> list[str]:
    """The texts of scores (N, T, C), whose class 0 is the blank: repeated classes become one, blanks go.

    ``vocabulary`` has the text of each class; without it a text is the numbers of its classes.

    >>> import torch
    >>> from zeropoint.tasks.speech import ctc
    >>> ctc(torch.eye(3)[[1, 1, 0, 1, 2]][None], ["", "a", "b"])
    ['aab']
    """
    if scores.dim() != 3:
        raise InputError(f"the outputs are {described(scores)}, not scores (N, T, C); {FIX}")
    kept = [torch.unique_consecutive(row) for row in scores.argmax(-1)]
    return [_text([int(one) for one in row if one != BLANK], vocabulary) for row in kept]


def _text(tokens: list[int], vocabulary: Sequence[str] | None) -> str:
    return " ".join(map(str, tokens)) if vocabulary is None else "".join(vocabulary[one] for one in tokens)


def _texts(outputs: Any, targets: Any) -> tuple[list[str], list[str]]:
    """Texts as they are; scores decoded; target tokens (N, L), where blanks and negative numbers pad."""
    found = outputs if _is_text(outputs) else ctc(main(outputs))
    if isinstance(targets, Tensor) and targets.dim() == 2 and not targets.is_floating_point():
        targets = [_text([int(one) for one in row if one > BLANK], None) for row in targets]
    if not _is_text(targets) or len(targets) != len(found):
        raise InputError(f"the targets are {described(targets)}, not {len(found)} texts or token rows; {FIX}")
    return list(found), list(targets)


def _is_text(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(one, str) for one in value)


def _said(outputs: Any, number: int, _: Any) -> Answer:
    return Answer(outputs[number] if _is_text(outputs) else f"tokens {ctc(main(outputs)[number][None])[0]}")


def _wanted(targets: Any, number: int, _: Any) -> Answer:
    one = targets[number]
    if isinstance(one, Tensor) and one.dim() == 1 and not one.is_floating_point():
        return Answer(f"tokens {_text([int(token) for token in one if token > BLANK], None)}")
    return Answer(one if isinstance(one, str) else "")


def _wer(*_: Any) -> Meter:
    return doubled(library("torchmetrics.text").WordErrorRate())


def _loss(outputs: Any, targets: Any) -> Tensor:
    scores = main(outputs)
    counts = (targets > BLANK).sum(1)
    steps = torch.full((len(scores),), scores.shape[1])
    return F.ctc_loss(scores.log_softmax(-1).movedim(1, 0), targets.clamp(min=0), steps, counts, BLANK)


SPEECH = Task(
    "speech-recognition",
    metrics=(Metric(Measure("WER", "%", higher_is_better=False), _wer, _texts),),
    fidelity=agreement("NTC", "same tokens"),
    loss=_loss,
    reader=Reader(_said, _wanted),
)
