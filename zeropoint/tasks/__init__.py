"""Tasks: what outputs and targets mean, by name, and with metrics of the user's own."""

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

from zeropoint.errors import InputError, closest
from zeropoint.tasks import own
from zeropoint.tasks.answers import CLASS
from zeropoint.tasks.classes import agreement
from zeropoint.tasks.classification import CLASSIFICATION, MULTILABEL, TEXT
from zeropoint.tasks.detection import DETECTION
from zeropoint.tasks.embedding import EMBEDDING
from zeropoint.tasks.metric import Measure, Metric
from zeropoint.tasks.outputs import described
from zeropoint.tasks.segmentation import SEGMENTATION
from zeropoint.tasks.signals import AUDIO, IMAGE, REGRESSION
from zeropoint.tasks.speech import SPEECH
from zeropoint.tasks.task import Task
from zeropoint.tasks.tokens import LANGUAGE, MASKED, TOKENS

__all__ = ["TASKS", "Measure", "Metric", "Task", "find", "fitting", "made"]

NONE = Task("none", fidelity=agreement("NC"), reader=CLASS)
"""Fidelity to the float network alone."""

TASKS = {
    task.name: task
    for task in (
        *(CLASSIFICATION, MULTILABEL, SEGMENTATION, DETECTION, TEXT, TOKENS, MASKED, LANGUAGE, SPEECH),
        *(IMAGE, AUDIO, REGRESSION, EMBEDDING, NONE),
    )
}


def find(name: str) -> Task:
    """The task of this name. Raises InputError if there is none.

    >>> import zeropoint.tasks
    >>> zeropoint.tasks.find("segmentation").metrics[0].measure
    Measure(name='mIoU', unit='%', higher_is_better=True)
    """
    if name not in TASKS:
        raise InputError(f"unknown task {name}; {closest(name, TASKS)}")
    return TASKS[name]


def made(
    task: str | Task | None = None,
    metrics: Any = (),
    higher_is_better: bool | None = None,
    postprocess: Callable[[Any], Any] | None = None,
) -> Task | None:
    """The task with metrics of the user's own; None if it is to be found by outputs and targets.

    ``metrics`` is one or several: names of the task's own, or what ``own.metric`` takes; if there are any,
    they take the place of the task's. ``higher_is_better`` is the direction of those that do not tell.

    Raises InputError for an unknown task or metric.
    """
    given = list(metrics) if isinstance(metrics, list | tuple) else [metrics]
    chosen = find(task) if isinstance(task, str) else task
    if chosen is None and (given or postprocess):
        named = any(isinstance(one, str) for one in given)
        chosen = CLASSIFICATION if named or not given else NONE
    if chosen is None:
        return None
    if given:
        found = tuple(
            _named(one, chosen) if isinstance(one, str) else own.metric(one, higher_is_better)
            for one in given
        )
        if twice := [one.name for one in found if [other.name for other in found].count(one.name) > 1]:
            raise InputError(f"two metrics have the name {twice[0]}; give each a name of its own")
        chosen = dataclasses.replace(chosen, metrics=found)
    return dataclasses.replace(chosen, postprocess=postprocess or chosen.postprocess)


def _named(name: str, task: Task) -> Metric:
    known = {metric.name: metric for metric in (*task.metrics, *task.more)}
    if name not in known:
        others = [one.name for one in TASKS.values() if name in {m.name for m in (*one.metrics, *one.more)}]
        fix = f"give --task {others[0]}" if others else closest(name, known)
        raise InputError(f"the task {task.name} has no metric {name}; {fix}")
    return known[name]


def fitting(outputs: Any, targets: Any) -> Task:
    """The task that a first batch shows: classification, or none without targets.

    Raises InputError for other targets, with the task that would fit.
    """
    if targets is None:
        return NONE
    if isinstance(targets, Tensor) and not targets.is_floating_point() and targets.dim() < 2:
        return CLASSIFICATION
    shown = f"the outputs are {described(outputs)} and the targets {described(targets)}, no class numbers"
    if _is_one_hot(targets):
        raise InputError(f"{shown} but one-hot; give class numbers, their argmax(1), or a --task or --metric")
    raise InputError(f"{shown}; say what they mean by --task {' or '.join(_likely(targets))}, or --metric")


def _is_one_hot(targets: Any) -> bool:
    """Whether targets (N, C) have one 1 in each row, and zeros."""
    if not isinstance(targets, Tensor) or targets.dim() != 2 or targets.shape[1] < 2:
        return False
    return bool(((targets == 0) | (targets == 1)).all() and (targets.sum(1) == 1).all())


def _likely(targets: Any) -> list[str]:
    if not isinstance(targets, Tensor):
        return ["detection", "speech-recognition"]
    if targets.is_floating_point():
        return ["image-regression", "regression"] if targets.dim() == 4 else ["regression", "multi-label"]
    return ["segmentation"] if targets.dim() > 2 else ["token-classification", "masked-language-modelling"]
