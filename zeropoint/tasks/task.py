"""Task: what outputs and targets mean."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zeropoint.tasks.answers import VALUES, Reader
from zeropoint.tasks.metric import Metric, blaming, number


@dataclass(frozen=True)
class Task:
    """What is measured of a model.

    ``metrics``: those that are measured; the first one is that of verdicts and searches. ``more``: further
    ones by name. ``fidelity``: a metric whose targets are the float network's outputs, None if there is none
    but SQNR. ``loss``: from outputs and targets to the mean loss of the samples. ``postprocess`` makes what
    metrics read of the outputs. ``reader`` says what outputs and targets mean for one sample.

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
    reader: Reader = VALUES

    def postprocessed(self, outputs: Any) -> Any:
        """What metrics read of a batch's outputs. Raises InputError if the user's function fails."""
        if self.postprocess is None:
            return outputs
        with blaming("the postprocessing fails"), torch.no_grad():
            return self.postprocess(outputs)

    def whole_values(self, model: Any, loader: Any) -> dict[str, float]:
        """The values of those metrics that are computed from a callable model and a loader, by name."""
        values = {}
        for metric in self.metrics:
            if metric.whole is not None:
                with blaming(f"{metric.name} fails"):
                    values[metric.name] = number(metric.whole(model, loader), metric.name)
        return values
