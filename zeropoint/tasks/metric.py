"""Metrics: a number with its name, unit and direction, gathered batch by batch."""

import contextlib
import copy
import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from zeropoint.errors import InputError, first_line
from zeropoint.models.vision import torchvision
from zeropoint.tasks.outputs import described

Prepare = Callable[[Any, Any], tuple[Any, ...]]
"""From outputs and targets to what a meter is updated with, each with the samples along its first axis."""


class Meter(Protocol):
    """What gathers a metric; torchmetrics' metrics are such. Its states are attributes of the same names."""

    def update(self, *batch: Any) -> None:
        """Counts one batch."""

    def compute(self) -> Any:
        """The value over all batches since the start or the last ``reset``."""

    def reset(self) -> None:
        """Forgets all batches."""

    @property
    def metric_state(self) -> dict[str, Any]:
        """The states: tensors, or lists of tensors."""


class Sums:
    """A metric that is a function of sums over samples.

    ``of`` gives a batch's sums, a 1-D tensor; ``value`` makes the metric of the sums of all batches. By
    default it is the first sum over the second one, NaN if that is zero.
    """

    def __init__(self, of: Callable[..., Tensor], value: Callable[[Tensor], Any] | None = None) -> None:
        self._of, self._value = of, value or (lambda sums: sums[0] / sums[1])
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        self.total = torch.zeros(())

    def update(self, *batch: Any) -> None:
        """Adds a batch's sums, in float64: a sum over a whole data set in float32 loses digits."""
        self.total = self.total + self._of(*batch).detach().double()

    def compute(self) -> Any:
        """The value of the sums so far."""
        return self._value(self.total) if self.total.dim() else math.nan

    @property
    def metric_state(self) -> dict[str, Any]:
        """The sums."""
        return {"total": self.total}


@dataclass(frozen=True)
class Measure:
    """What a number is: its name, its unit, and whether a higher one is better.

    With the unit ``%`` the number is a fraction of 1, and is shown in percent.
    """

    name: str
    unit: str = ""
    higher_is_better: bool = True


@dataclass(frozen=True)
class Metric:
    """A measure and how it is computed.

    ``start`` makes a Meter from the first batch's outputs and targets; it raises InputError if they are not
    what the metric needs. ``prepare`` gives what the Meter is updated with, and ``value`` makes the number of
    what it computes. ``whole`` computes the metric from a callable model and a loader, in place of these.
    ``own`` is the user's function or object that it was made of, if it was.
    """

    measure: Measure
    start: Callable[[Any, Any], Meter] | None = None
    prepare: Prepare = lambda outputs, targets: (outputs, targets)
    needs_targets: bool = True
    value: Callable[[Any], Any] = lambda computed: computed
    whole: Callable[[Any, Any], Any] | None = None
    own: Any = None

    @property
    def name(self) -> str:
        """That of the measure."""
        return self.measure.name


class Score:
    """One metric of one run, batch by batch. ``meter`` is None before the first batch."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.meter: Meter | None = None
        self._batches = 0

    def add(self, outputs: Any, targets: Any) -> tuple[Any, ...]:
        """Counts one batch; returns what the meter was updated with.

        Raises InputError if there are no targets but the metric needs them, or if it fails.
        """
        self._batches += 1
        name, where = self.metric.name, f"batch {self._batches}"
        if targets is None and self.metric.needs_targets:
            raise InputError(
                f"{where} has no targets, and {name} needs them; give batches of (inputs, targets)"
            )
        with blaming(f"{name} fails on {where}", where), torch.no_grad():
            if self.meter is None:
                assert self.metric.start is not None
                self.meter = self.metric.start(outputs, targets)
            batch = self.metric.prepare(outputs, targets)
            self.meter.update(*batch)
        return batch

    def value(self) -> float | None:
        """The metric over all batches, None if there is nothing to compute it from.

        Raises InputError if it is no number.
        """
        if self.meter is None:
            return None
        with blaming(f"{self.metric.name} fails"):
            return number(self.metric.value(self.meter.compute()), self.metric.name)


def number(value: Any, name: str) -> float:
    """A metric's value as a float. Raises InputError if it is none."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if hasattr(value, "item") and getattr(value, "size", 0) == 1:
        value = value.item()  # a NumPy scalar
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"the metric {name} gives {described(value)}, and must give one number")
    return float(value)


@contextlib.contextmanager
def blaming(what: str, where: str = "") -> Iterator[None]:
    """Turns any exception into an InputError that starts with ``what``, one that is such with ``where``."""
    try:
        yield
    except InputError as error:
        if not where:
            raise
        raise InputError(f"{where}: {error}") from error
    except Exception as error:
        raise InputError(f"{what}: {type(error).__name__}: {first_line(error)}") from error


def library(name: str = "torchmetrics") -> Any:
    """torchmetrics, or a module of it. Raises InputError if it is not installed."""
    with contextlib.suppress(InputError):
        torchvision()  # which torchmetrics imports where it is installed, and which needs help with that
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError("torchmetrics is not installed; run: pip install 'zeropoint[metrics]'") from error


def doubled(meter: Any) -> Meter:
    """A metric of torchmetrics that adds up in float64."""
    made: Meter = meter.set_dtype(torch.float64)
    return made


def fresh(meter: Meter) -> Meter:
    """An empty copy."""
    made = copy.deepcopy(meter)
    made.reset()
    return made
