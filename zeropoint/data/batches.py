"""Batches and loaders: what a loader may yield, and how it is read."""

import itertools
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zeropoint.errors import InputError

Batch = Any
"""What a loader yields: ``(inputs, labels)`` or inputs alone; inputs are a Tensor or a tuple/list of them."""


class FlatBatch(NamedTuple):
    """A batch taken apart: input tensors in the order of the graph's inputs, and targets, None without."""

    inputs: tuple[Tensor, ...]
    targets: Any


LABELS = ("labels", "label", "targets", "target")
"""The keys of a dict batch that may hold its targets."""

Loader = Iterable[Batch]
"""A re-iterable source of batches: a list, a DataLoader, or any object whose ``__iter__`` starts again."""


def split(batch: Batch) -> tuple[tuple[Tensor, ...], Any]:
    """The positional inputs of a batch and its labels, 1-D of integers (None if there are none).

    A FlatBatch says which are which.

    A pair is ``(inputs, labels)`` if its second item is None or a 1-D integer tensor of the batch's length
    (or 0-D, for a batch of one); any other sequence of tensors is inputs alone. A model of two inputs whose
    second one looks like labels is fed by ``((first, second), None)``.

    Raises InputError for anything else, dicts included.
    """
    if isinstance(batch, FlatBatch):
        return batch
    if isinstance(batch, Tensor):
        return (batch,), None
    if not isinstance(batch, (tuple, list)) or not batch:
        raise InputError(
            f"a batch is {_describe(batch)}; give a Tensor, a tuple of Tensors, or (inputs, labels)"
        )
    if len(batch) == 2:
        inputs, labels = _inputs(batch[0]), batch[1]
        if labels is None:
            return inputs, None
        if _are_labels(labels, inputs):
            return inputs, labels.reshape(-1)
        if not isinstance(batch[0], Tensor):
            raise InputError(f"a batch's labels are {_describe(labels)}; give one integer per row, or None")
    return _inputs(batch), None


def example_inputs(loader: Loader) -> tuple[Tensor, ...]:
    """The positional inputs of the first batch. Raises InputError if there is none, or it is no tensor."""
    check(loader, "the loader")
    for batch in loader:
        return split(batch)[0]
    raise InputError("the loader yields no batch; give it at least one")


def check(loader: object, name: str) -> None:
    """Raises InputError, about ``name``, if ``loader`` cannot be iterated several times."""
    if isinstance(loader, Iterator):
        raise InputError(
            f"{name} is {_describe(loader)}, which reads only once; return a list or a DataLoader instead"
        )
    if isinstance(loader, Dataset) or not isinstance(loader, Iterable):
        raise InputError(
            f"{name} is {_describe(loader)}, which yields no batches; wrap the data in a DataLoader"
        )


def inputs_of(loader: Loader, together: int | None = None) -> Iterator[tuple[Tensor, ...]]:
    """The inputs of batches, as they are or put together to at most ``together`` rows."""
    alone = (split(batch)[0] for batch in loader)
    return alone if together is None else gathered(alone, together)


def gathered(batches: Iterable[tuple[Tensor, ...]], items: int) -> Iterator[tuple[Tensor, ...]]:
    """Batches of inputs, with consecutive ones of equal shapes put together to at most ``items`` rows."""
    waiting: list[tuple[Tensor, ...]] = []
    for inputs in batches:
        rows = sum(len(before[0]) for before in waiting) + len(inputs[0])
        alike = waiting and all(a.shape[1:] == b.shape[1:] for a, b in zip(waiting[0], inputs, strict=True))
        if waiting and (rows > items or not alike):
            yield _joined(waiting)
            waiting = []
        waiting.append(inputs)
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return (
        batches[0] if len(batches) == 1 else tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    )


def limit(loader: Loader, n: int | None) -> Loader:
    """A re-iterable of the first ``n`` batches of ``loader`` at most (all of them for None)."""
    return loader if n is None else _Limited(loader, n)


@dataclass(frozen=True)
class _Limited:
    loader: Loader
    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError(f"at most {self.n} batches leave no data; give 1 or more")
        check(self.loader, "the loader")

    def __iter__(self) -> Iterator[Batch]:
        return itertools.islice(iter(self.loader), self.n)

    def __length_hint__(self) -> int:
        return min(self.n, operator.length_hint(self.loader, self.n))


def _inputs(inputs: object) -> tuple[Tensor, ...]:
    sequence = (inputs,) if isinstance(inputs, Tensor) else inputs
    if (
        isinstance(sequence, (tuple, list))
        and sequence
        and all(isinstance(item, Tensor) for item in sequence)
    ):
        return tuple(sequence)
    raise InputError(f"a batch's inputs are {_describe(inputs)}; give a Tensor or a tuple of Tensors")


def _are_labels(labels: object, inputs: tuple[Tensor, ...]) -> bool:
    if not isinstance(labels, Tensor) or labels.dtype == torch.bool or labels.ndim > 1:
        return False
    if labels.is_floating_point() or labels.is_complex():
        return False
    return inputs[0].ndim > 0 and labels.numel() == len(inputs[0])


def _describe(value: object) -> str:
    """The type of a value for a message, with the parts of a tensor or sequence that make it wrong."""
    name = type(value).__name__
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"a {name} of {', '.join(sorted({type(item).__name__ for item in value})) or 'nothing'}"
    return f"a {name}"
