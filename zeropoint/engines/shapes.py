"""Shapes: engines that are faster when compiled for the very shapes they run on, so that they are."""

from collections.abc import Callable

from torch import Tensor

Run = Callable[..., tuple[Tensor, ...]]
Shapes = tuple[tuple[int, ...], ...]

KEPT = 4  # a data set needs three: the batch timed, the batch evaluated, and the shorter last one


def by_shape(compile: Callable[[Shapes | None], Run]) -> Run:
    """A run that is compiled for the shapes of its inputs when it first meets them.

    ``compile`` is given the shapes, or None for all. Beyond the first few shapes one run that is compiled for
    all takes the rest, so that neither time nor memory grow with the data.
    """
    runs: dict[Shapes | None, Run] = {}

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        shapes: Shapes | None = tuple(tuple(tensor.shape) for tensor in inputs)
        if shapes not in runs:
            shapes = shapes if len(runs) < KEPT else None
            if shapes not in runs:
                runs[shapes] = compile(shapes)
        return runs[shapes](*inputs)

    return run
