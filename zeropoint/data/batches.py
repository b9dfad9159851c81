"""Batches and loaders: what a loader may yield, and how it is read."""

import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler, Subset

from zeropoint.errors import InputError, first_line

Batch = Any
"""What a loader yields: ``(inputs, targets)`` or inputs alone: the arguments of a call, or a dict of them."""


class FlatBatch(NamedTuple):
    """A batch taken apart: input tensors in the order of the graph's inputs, and targets, None without."""

    inputs: tuple[Tensor, ...]
    targets: Any


LABELS = ("labels", "label", "targets", "target")
"""The keys of a dict batch that may hold its targets."""

Loader = Iterable[Batch]
"""A re-iterable source of batches: a list, a DataLoader, or any object whose ``__iter__`` starts again."""


def split(batch: Batch, count: int | None = None) -> FlatBatch:
    """The positional inputs of a batch, and its targets, None if there are none.

    ``count`` is the number of the model's inputs. Then what follows so many tensors is the targets, whatever
    it is; so is the second item of a pair whose first one is a sequence of tensors. If ``count`` is unknown,
    the second tensor of a pair is targets if it is class numbers: 1-D integers of the batch's length (or 0-D,
    for a batch of one); any other sequence of tensors is inputs alone. A model of two inputs whose second one
    looks like labels is fed by ``((first, second), None)``.

    Raises InputError for anything else, dicts included.
    """
    if isinstance(batch, FlatBatch):
        return batch
    if isinstance(batch, Tensor):
        return FlatBatch((batch,), None)
    if not isinstance(batch, (tuple, list)) or not batch:
        raise InputError(
            f"a batch is {_describe(batch)}; give a Tensor, a tuple of Tensors, or (inputs, targets)"
        )
    if len(batch) == 2 and (batch[1] is None or not isinstance(batch[0], Tensor)):
        return FlatBatch(_inputs(batch[0]), batch[1])
    if len(batch) == (2 if count is None else count + 1):
        inputs, last = _inputs(batch[:-1]), batch[-1]
        if count is not None or not isinstance(last, Tensor):
            return FlatBatch(inputs, last)
        if _are_labels(last, inputs):
            return FlatBatch(inputs, last.reshape(-1))
    return FlatBatch(_inputs(batch), None)


def example_inputs(loader: Loader) -> tuple[Tensor, ...]:
    """The positional inputs of the first batch. Raises InputError if there is none, or it is no tensor."""
    return split(first_batch(loader))[0]


def first_batch(loader: Loader, name: str = "") -> Batch:
    """The first batch of a loader, which is called by ``name``; raises InputError if there is none."""
    what = f"the {name} loader" if name else "the loader"
    check(loader, what)
    for batch in reading(loader, what):
        return batch
    raise InputError(f"{what} yields no batch; give it at least one")


def reading(loader: Loader, name: str) -> Iterator[Batch]:
    """The batches of a loader; raises InputError, about ``name``, with the number of the batch that fails."""
    number = 0
    try:
        for batch in loader:
            number += 1
            yield batch
    except InputError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{name} fails at batch {number + 1}: {reason}") from error


@dataclass(frozen=True)
class Around:
    """A loader of the batches of another one, ``loader``, each or the first ones."""

    loader: Loader


@dataclass(frozen=True)
class Told(Around):
    """A loader whose failures are InputErrors about its ``name``."""

    name: str

    def __iter__(self) -> Iterator[Batch]:
        return reading(self.loader, self.name)

    def __length_hint__(self) -> int:
        return operator.length_hint(self.loader)


def innermost(loader: Loader) -> Loader:
    """The loader that the user gave, which has the data set and the generators."""
    while isinstance(loader, Around):
        loader = loader.loader
    return loader


def class_names(loader: Loader) -> tuple[str, ...]:
    """The names of the classes by number, as torchvision's data sets know them; none of other data."""
    dataset = getattr(innermost(loader), "dataset", None)
    while (inner := getattr(dataset, "dataset", None)) is not None:  # of a Subset
        dataset = inner
    names = getattr(dataset, "classes", ())
    are_names = isinstance(names, list | tuple) and all(isinstance(one, str) for one in names)
    return tuple(names) if are_names else ()


def image_files(loader: Loader, count: int) -> tuple[Path, ...]:
    """The files of the first ``count`` items, if the data set is torchvision's of image files; else none."""
    given = innermost(loader)
    if not isinstance(given, DataLoader) or not isinstance(given.sampler, SequentialSampler):
        return ()
    dataset: Any = given.dataset
    indices = list(range(count))[: len(dataset)]
    while isinstance(dataset, Subset):
        indices, dataset = [dataset.indices[index] for index in indices], dataset.dataset
    entries = getattr(dataset, "samples", None)
    are_files = isinstance(entries, list) and all(
        isinstance(entry, tuple) and isinstance(entry[0], str) for entry in entries[:1]
    )
    return tuple(Path(entries[index][0]) for index in indices) if entries and are_files else ()


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


def items_of(inputs: tuple[Tensor, ...]) -> int:
    """The number of rows of the first input."""
    return len(inputs[0]) if inputs[0].dim() else 1


def inputs_of(loader: Loader, together: int | None = None) -> Iterator[tuple[Tensor, ...]]:
    """The inputs of batches, as they are or put together to at most ``together`` rows."""
    alone = (split(batch)[0] for batch in loader)
    return alone if together is None else gathered(alone, together)


def gathered(batches: Iterable[tuple[Tensor, ...]], items: int) -> Iterator[tuple[Tensor, ...]]:
    """Batches of inputs, with consecutive ones of equal shapes put together to at most ``items`` rows."""
    waiting: list[tuple[Tensor, ...]] = []
    for inputs in batches:
        rows = sum(map(items_of, waiting)) + items_of(inputs)
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
class _Limited(Around):
    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError(f"at most {self.n} batches leave no data; give 1 or more")
        check(self.loader, "the loader")

    def __iter__(self) -> Iterator[Batch]:
        return itertools.islice(iter(self.loader), self.n)

    def __length_hint__(self) -> int:
        return min(self.n, operator.length_hint(self.loader, self.n))


def shapes(batch: Batch) -> str:
    """What a batch holds, in words: type and shape of each tensor, as in "float32 (8, 3, 32, 32)"."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return ", ".join(f"{key} {shapes(part)}" for key, part in batch.items())
    if isinstance(batch, tuple):
        return ", ".join(map(shapes, batch))
    return f"a list of {len(batch)}" if isinstance(batch, list) else f"a {type(batch).__name__}"


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
