"""Task: what outputs and targets mean."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zeropoint.tasks.metric import Metric


@dataclass(frozen=True)
class Task:
    """What is measured of a model.

    ``metrics``: those that are measured; the first one is that of verdicts and searches. ``more``: further
    ones by name. ``fidelity``: a metric whose targets are the float network's outputs, None if there is none
    but SQNR. ``loss``: from outputs and targets to the mean loss of the samples. ``postprocess`` makes what
    metrics read of the outputs.

    >>> import zeropoint.tasks
    >>> [metric.name for metric in zeropoint.tasks.find("regression").metrics]
    ['MAE', 'R2']
    """

    name: str
    metrics: tuple[Metric, ...] = ()
    more: tuple[Metric, ...] = ()
    fidelity: Metric | None = None
    loss: Callable[[Any, Any], Tensor] | None = None
    postprocess: Callable[[Any], Any] | None = None
