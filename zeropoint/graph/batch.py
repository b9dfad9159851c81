"""Batch: the axis of every input and output along which a model's items lie, found by running it."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from zeropoint.graph.verify import Sample, reordered, same

Axes = tuple[int | None, ...]
"""For each tensor the axis of the batch; None if it has none."""
Run = Callable[[tuple[Tensor, ...]], list[Tensor]]
MOST = 64  # assignments of axes that are tried


@dataclass(frozen=True)
class Batch:
    """The axis of the batch of each input and output of a model. Without a batch, all are None."""

    inputs: Axes
    outputs: Axes

    @property
    def is_first(self) -> bool:
        """Whether the first axis of every input is the batch, so that rows are items."""
        return all(axis == 0 for axis in self.inputs)

    @property
    def is_known(self) -> bool:
        """Whether there is a batch at all."""
        return any(axis is not None for axis in self.inputs)


def find_batch(run: Run, example: Sample, second: Sample | None, is_random: Callable[[], bool]) -> Batch:
    """The axes along which a model's items lie.

    ``run`` gives the output tensors for inputs. Two samples, the ``example`` and the ``second``, are put
    together along some axes. These are the batch if the outputs are those of the two samples, put together.
    Inputs without a batch are the example's in both. If the model draws random numbers (``is_random``), the
    shapes alone decide. First axes are tried first.
    """
    inputs = example.inputs
    others = {(False,) * len(inputs): second} if second is not None else {}
    for compare in (same, _same_shapes):
        for axes in itertools.islice(_assignments(inputs), MOST):
            kept = tuple(axis is None for axis in axes)
            try:
                if kept not in others:
                    mixed = tuple(
                        a if k else b for k, a, b in zip(kept, inputs, reordered(inputs), strict=True)
                    )
                    others[kept] = Sample(mixed, run(mixed))
                other = others[kept]
                both = run(joined(inputs, other.inputs, axes))
            except Exception:  # the model does not take such sizes
                continue
            if (found := _output_axes(example.outputs, other.outputs, both, compare)) is not None:
                return Batch(axes, found)
        if compare is same and not is_random():
            break
    return Batch((None,) * len(inputs), (None,) * len(example.outputs))


def joined(first: tuple[Tensor, ...], second: tuple[Tensor, ...], axes: Axes) -> tuple[Tensor, ...]:
    """Two samples put together along the axes of the batch; inputs without one are those of the first."""
    return tuple(
        a if axis is None else torch.cat([a, b], axis) for a, b, axis in zip(first, second, axes, strict=True)
    )


def repeated(tensor: Tensor, axis: int | None, size: int) -> Tensor:
    """The first item of an input, repeated to a batch of a size; an input without a batch as it is."""
    if axis is None:
        return tensor
    counts = [1] * tensor.dim()
    counts[axis] = size
    return tensor.narrow(axis, 0, 1).repeat(counts)


def _assignments(inputs: tuple[Tensor, ...]) -> Iterator[Axes]:
    """Axes of equal size, one an input or none: those first that leave out the fewest inputs."""
    most = max(tensor.dim() for tensor in inputs)
    sizes = dict.fromkeys(t.shape[axis] for axis in range(most) for t in inputs if axis < t.dim())
    for size in sizes:
        fitting = [[*(axis for axis, of in enumerate(t.shape) if of == size), None] for t in inputs]
        choices = itertools.islice(itertools.product(*fitting), 4 * MOST)
        yield from sorted(
            (axes for axes in choices if any(axis is not None for axis in axes)),
            key=lambda axes: (axes.count(None), sum(axis or 0 for axis in axes)),
        )


def _output_axes(
    one: list[Tensor], other: list[Tensor], both: list[Tensor], compare: Callable[..., bool]
) -> Axes | None:
    """Along which axis each output is that of two samples together; None if an output is not."""
    if not len(one) == len(other) == len(both):
        return None
    found: list[int | None] = []
    for a, b, c in zip(one, other, both, strict=True):
        grown = [axis for axis in range(min(a.dim(), c.dim())) if c.shape[axis] != a.shape[axis]]
        if not grown and compare([a], [c]):
            found.append(None)  # the same whatever the batch
        elif len(grown) == 1 and a.dim() == b.dim() and compare([torch.cat([a, b], grown[0])], [c]):
            found.append(grown[0])
        else:
            return None
    return tuple(found) if any(axis is not None for axis in found) else None


def _same_shapes(wanted: list[Tensor], found: list[Tensor]) -> bool:
    return [tensor.shape for tensor in wanted] == [tensor.shape for tensor in found]
