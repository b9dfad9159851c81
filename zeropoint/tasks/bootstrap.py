"""Bootstrap: how sure the difference of a metric between two runs on the same samples is.

The states of a metric are kept for each block of consecutive samples. A resample draws as many blocks, with
replacement, and adds up their states (Efron and Tibshirani, 1993, chapter 13); both runs get the same draws.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zeropoint.tasks.metric import Meter, Metric, fresh, number

MOST = 512  # blocks: of single samples up to so many, of twice as many samples whenever they are full
RESAMPLES = 200
RESAMPLES_OF_LISTS = 40  # of a metric that keeps lists, as mAP does: it takes long to compute

State = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """A metric's value minus that of the float network on the same samples, and its 95% interval."""

    value: float
    low: float
    high: float


class Blocks:
    """The states of a metric over blocks of consecutive samples; memory does not grow with the data."""

    def __init__(self, meter: Meter) -> None:
        self.meter = fresh(meter)
        self._empty: State = dict(self.meter.metric_state)
        self.states: list[State] = []
        self._size, self._room = 1, 0

    def add(self, batch: tuple[Any, ...]) -> None:
        """Counts one batch, as the meter is updated with it.

        It is one block if its parts are not tensors or lists with the samples along the first axis.
        """
        lengths = {len(part) if isinstance(part, list) or part.dim() else 0 for part in batch}
        count = lengths.pop() if len(lengths) == 1 else 0
        start = 0
        while start < count or not count:
            if not self._room:
                self._open()
            taken = min(self._room, count - start) if count else self._room
            part = tuple(one[start : start + taken] for one in batch) if count else batch
            self.meter.reset()
            self.meter.update(*part)
            state = self._state()
            self.states[-1] = _added(self.states[-1], state) if self.states[-1] else state
            self._room -= taken
            start += taken
            if not count:
                return

    def _state(self) -> State:
        """What the meter has beyond an empty one: lists, or differences in float64."""
        return {
            name: list(value) if isinstance(value, list) else (value - self._empty[name]).double()
            for name, value in self.meter.metric_state.items()
        }

    def _open(self) -> None:
        if len(self.states) == MOST:
            pairs = zip(self.states[::2], self.states[1::2], strict=True)
            self.states = [_added(first, second) for first, second in pairs]
            self._size *= 2
        self.states.append({})
        self._room = self._size

    def draws(self, metric: Metric, whole: State) -> list[float] | None:
        """The metric of each resample, None if the states do not add up to that of the ``whole`` data."""
        if len(self.states) < 2 or not whole:
            return None
        parts = {name: [state[name] for state in self.states] for name in whole}
        stacked = {name: torch.stack(parts[name]) for name in whole if not isinstance(whole[name], list)}
        for name, values in stacked.items():
            total = (whole[name] - self._empty[name]).double()
            if not (torch.isfinite(total).all() and torch.allclose(values.sum(0), total, rtol=1e-5)):
                return None
        number_of = RESAMPLES if len(stacked) == len(whole) else RESAMPLES_OF_LISTS
        generator = torch.Generator().manual_seed(0)
        picks = torch.randint(len(self.states), (number_of, len(self.states)), generator=generator)
        found = []
        for pick in picks:
            self.meter.reset()
            counts = torch.bincount(pick, minlength=len(self.states)).double()
            for name in whole:
                if name in stacked:
                    total = torch.tensordot(counts, stacked[name], dims=1)
                    setattr(self.meter, name, self._empty[name] + total)
                else:
                    setattr(self.meter, name, [one for i in pick.tolist() for one in parts[name][i]])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torchmetrics misses the updates
                found.append(number(metric.value(self.meter.compute()), metric.name))
        return found


def _added(state: State, other: State) -> State:
    return {name: value + other[name] for name, value in state.items()}


def change(
    value: float, reference: float, draws: Sequence[float] | None, others: Sequence[float] | None
) -> Change | None:
    """The change from ``reference``, with the normal interval by the standard deviation of the resamples.

    None without resamples of both, and for what is not finite.
    """
    if draws is None or others is None:
        return None
    differences = torch.tensor(draws, dtype=torch.float64) - torch.tensor(others, dtype=torch.float64)
    margin = 1.96 * float(differences[torch.isfinite(differences)].std())
    if not math.isfinite(margin) or not math.isfinite(value - reference):
        return None
    return Change(value - reference, value - reference - margin, value - reference + margin)
