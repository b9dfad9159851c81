"""The samples whose outputs a run moves most from float32's, found in the one pass of the evaluation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zeropoint.measure.changed import ChangedClass, ChangedSample, Media
from zeropoint.tasks import Task
from zeropoint.tasks.answers import CLASS, Answer, Names, class_name, read
from zeropoint.tasks.outputs import main

SAMPLES = 6  # kept of each row
CLASSES = 10

Parts = tuple[int, int]
"""How many classes, pixels, boxes or tokens of a sample changed, and how many there are."""


@dataclass(frozen=True)
class Moved:
    """A sample, with what is drawn and written of it; fields as those of ChangedSample.

    ``inputs``: its input tensors without the axis of the batch; those that have none as they are.
    """

    index: int
    inputs: tuple[Tensor, ...]
    float32: Answer
    row: Answer
    label: Answer
    changed: Parts | None
    fidelity: float | None
    sqnr_db: float

    def told(self, media: tuple[Media, ...] = ()) -> ChangedSample:
        """The sample in words and numbers, with its pictures and sounds."""
        words = self.float32.words, self.row.words, self.label.words
        return ChangedSample(self.index, *words, self.changed, self.fidelity, self.sqnr_db, media)


@dataclass(frozen=True)
class Worst:
    """The samples that moved most, and the classes with other answers, the worst first."""

    samples: tuple[Moved, ...] = ()
    classes: tuple[ChangedClass, ...] = ()


@dataclass(frozen=True)
class Pair:
    """One batch of a run and of float32: outputs as flat tensors, and as metrics read them; targets."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    reference: Sequence[Tensor]
    read: tuple[Any, Any, Any]


class WorstMeter:
    """Keeps so ``many`` samples: those of the least fidelity in the task's terms, then of the least SQNR.

    Memory does not grow with the data. ``names`` are those of the classes, if they are known.
    """

    def __init__(self, task: Task, names: Names, many: int = SAMPLES) -> None:
        self._task, self._names, self._many = task, names, many
        self._seen = 0
        self._kept: list[tuple[tuple[float, float, int], Moved]] = []
        self._classes = _Classes()

    def add(self, pair: Pair, prepared: tuple[Any, ...], count: int) -> None:
        """Counts a batch of so many samples; ``prepared`` is what the meter of the fidelity was given."""
        if not count:
            return
        changed, fidelity = _fidelities(self._task, prepared, count)
        decibels = sample_decibels(pair.reference, pair.outputs, count)
        ranks = [
            (1.0 if one is None else _rank(one), _rank(decibel), self._seen + place)
            for place, (one, decibel) in enumerate(zip(fidelity, decibels, strict=True))
        ]
        for place in sorted(range(count), key=ranks.__getitem__)[: self._many]:
            is_moved = ranks[place][0] < 1 or ranks[place][1] < math.inf
            if is_moved and (len(self._kept) < self._many or ranks[place] < self._kept[-1][0]):
                moved = self._moved(pair, place, changed[place], fidelity[place], decibels[place])
                self._kept = sorted([*self._kept, (ranks[place], moved)], key=lambda one: one[0])
                del self._kept[self._many :]
        if self._task.reader is CLASS:
            self._classes.add(*pair.read)
        self._seen += count

    def _moved(
        self, pair: Pair, place: int, changed: Parts | None, fidelity: float | None, decibels: float
    ) -> Moved:
        (outputs, reference, targets), reader = pair.read, self._task.reader
        return Moved(
            self._seen + place,
            tuple(one[place].clone() if one.dim() and place < len(one) else one for one in pair.inputs),
            read(reader.answer, reference, place, self._names),
            read(reader.answer, outputs, place, self._names),
            read(reader.label, targets, place, self._names),
            changed,
            fidelity,
            decibels,
        )

    def result(self) -> Worst:
        """What was found in all batches added so far."""
        return Worst(tuple(moved for _, moved in self._kept), self._classes.worst(self._names))


def _rank(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _fidelities(
    task: Task, prepared: tuple[Any, ...], count: int
) -> tuple[list[Parts | None], list[float | None]]:
    """Of each sample the parts that changed, and its fidelity; None where it has none.

    ``prepared`` is what is right and what counts, for a fidelity in percent, else a value for each.
    """
    nothing: tuple[list[Parts | None], list[float | None]] = [None] * count, [None] * count
    fits = all(isinstance(one, Tensor) and one.dim() and len(one) == count for one in prepared)
    if task.fidelity is None or not prepared or not fits:
        return nothing
    if task.fidelity.measure.unit != "%":
        is_one_each = len(prepared) == 1 and prepared[0].dim() == 1
        return nothing[0], prepared[0].tolist() if is_one_each else nothing[1]
    right, counted = prepared
    right = right & counted if right.dtype == torch.bool else right
    totals = zip(*(one.reshape(count, -1).sum(1).tolist() for one in (right, counted)), strict=True)
    parts = [(int(total - same), int(total)) if total else None for same, total in totals]
    return parts, [None if one is None else 1 - one[0] / one[1] for one in parts]


def sample_decibels(reference: Sequence[Tensor], outputs: Sequence[Tensor], count: int) -> list[float]:
    """The SQNR of each sample in dB: the least of its outputs, as in ``Fidelity``; infinite if none differs.

    Outputs without a row for each sample do not count.
    """
    found = [
        _decibels(one.reshape(count, -1), other.reshape(count, -1))
        for one, other in zip(reference, outputs, strict=True)
        if one.is_floating_point() and one.dim() and len(one) == count
    ]
    if not found:
        return [math.inf] * count
    every = torch.stack(found)
    silent = every == -math.inf  # float32 gives nothing but zeros
    least = every.masked_fill(silent, math.inf).amin(0)
    decibels: list[float] = least.masked_fill(silent.all(0), -math.inf).tolist()
    return decibels


def _decibels(reference: Tensor, output: Tensor) -> Tensor:
    noise = reference - output
    if not torch.isfinite(noise).all():
        same = reference.isinf() & (reference == output)  # such as a mask
        reference, noise = reference.masked_fill(same, 0), noise.masked_fill(same, 0)
    signal, power = (torch.linalg.vector_norm(one, dim=1, dtype=torch.float64) for one in (reference, noise))
    found = 20 * (signal / power).log10()
    broken = ~(signal.isfinite() & power.isfinite())
    return torch.where(broken, math.nan, torch.where(power == 0, math.inf, found))


class _Classes:
    """By label: all samples, those whose class changed, and the right ones of float32 and of the run."""

    def __init__(self) -> None:
        self._counts = torch.zeros(4, 0, dtype=torch.int64)

    def add(self, outputs: Any, reference: Any, labels: Any) -> None:
        """Counts a batch, if its labels (N,) are numbers of the classes of its scores (N, C)."""
        scores, others = main(outputs), main(reference)
        is_number = isinstance(labels, Tensor) and not labels.is_floating_point()
        if scores.dim() != 2 or not is_number or labels.numel() != len(scores):
            return
        wanted, classes = labels.reshape(-1).long(), scores.shape[1]
        if not len(wanted) or wanted.min() < 0 or wanted.max() >= classes:
            return
        found, before = scores.argmax(1), others.argmax(1)
        if not self._counts.shape[1]:
            self._counts = torch.zeros(4, classes, dtype=torch.int64)
        kept = wanted, wanted[found != before], wanted[before == wanted], wanted[found == wanted]
        self._counts += torch.stack([torch.bincount(one, minlength=classes) for one in kept])

    def worst(self, names: Names) -> tuple[ChangedClass, ...]:
        """The classes that lost most right answers, then those of most changes; none without a change."""
        counted = list(enumerate(self._counts.t().tolist()))
        names = names if len(names) == len(counted) else ()
        changed = [one for one in counted if one[1][1]]
        changed.sort(key=lambda one: (one[1][3] - one[1][2], -one[1][1], one[0]))
        return tuple(
            ChangedClass(class_name(label, names), total, changes, float32 / total, run / total)
            for label, (total, changes, float32, run) in changed[:CLASSES]
        )
