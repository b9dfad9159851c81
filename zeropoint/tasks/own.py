"""Metrics and postprocessing of the user's own."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zeropoint.errors import InputError
from zeropoint.tasks.metric import Measure, Meter, Metric, Sums, number
from zeropoint.tasks.outputs import described, samples

WHOLE = ("model", "network", "run")
"""Names of a first parameter that say that a function is given the callable model and the loader."""


def metric(given: Any, higher_is_better: bool | None = None) -> Metric:
    """A metric made of what the user gave.

    ``given`` is a Metric; a torchmetrics Metric, or its class; a function of outputs and targets that gives
    a number, which is averaged over batches by their numbers of samples, or a tensor of one for each sample;
    or a function of ``model`` and loader, by that name of its first parameter. The direction is that
    of the object's attribute ``higher_is_better``; where it has none, ``higher_is_better``, by default True.

    Raises InputError for anything else.

    >>> from zeropoint.tasks.own import metric
    >>> metric(torch.nn.functional.l1_loss, higher_is_better=False).measure
    Measure(name='l1_loss', unit='', higher_is_better=False)
    """
    if isinstance(given, Metric):
        return given
    name = getattr(given, "__name__", None) or type(given).__name__
    own = getattr(given, "higher_is_better", None)
    better = own if isinstance(own, bool) else higher_is_better
    if all(callable(getattr(given, part, None)) for part in ("update", "compute", "reset")):
        if better is None:
            raise InputError(
                f"the metric {name} does not say if higher values are better; give --higher-is-better or"
                " --lower-is-better"
            )
        return Metric(Measure(name, "", better), lambda *_: _started(given), own=given)
    if not callable(given):
        raise InputError(
            f"a metric is {described(given)}; give a function (outputs, targets) or a torchmetrics Metric"
        )
    measure = Measure(name, "", better is not False)
    if _first_parameter(given) in WHOLE:
        return Metric(measure, needs_targets=False, whole=given, own=given)
    return Metric(
        measure,
        lambda *_: Sums(_summed),
        lambda outputs, targets: (_per_sample(given, name, outputs, targets),),
        needs_targets=False,
        own=given,
    )


def _started(given: Any) -> Meter:
    made: Meter = given() if isinstance(given, type) else copy.deepcopy(given)
    made.reset()
    return made


def _first_parameter(function: Callable[..., Any]) -> str:
    try:
        return next(iter(inspect.signature(function).parameters), "")
    except (TypeError, ValueError):  # of a function in C
        return ""


def _per_sample(function: Callable[..., Any], name: str, outputs: Any, targets: Any) -> Tensor:
    """The values of a batch and their weights, (values, 2): one for each sample, or one for the batch."""
    value = function(outputs, targets)
    if isinstance(value, Tensor) and value.dim() == 1 and len(value) > 1:
        return torch.stack([value.detach().double().cpu(), torch.ones(len(value), dtype=torch.float64)], 1)
    count = samples(outputs)
    return torch.tensor([[number(value, name) * count, count]], dtype=torch.float64)


def _summed(values: Tensor) -> Tensor:
    return values.sum(0)
