"""Sizes: those that the axes of a captured graph's inputs may have, and whether given inputs have them."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from zeropoint.errors import InputError
from zeropoint.graph.sentinels import absorbed


@dataclass(frozen=True)
class Axis:
    """The ``least`` and the ``most`` that an axis of an input may measure; the same where it is fixed."""

    least: int
    most: float

    @property
    def is_free(self) -> bool:
        """Whether it may have more than one size."""
        return self.least < self.most

    def __str__(self) -> str:
        if self.least == self.most:
            return str(self.least)
        if self.most < math.inf:
            return f"{self.least} to {int(self.most)}"
        return "any" if not self.least else f"{self.least} or more"


Shape = tuple[Axis, ...]


def input_shapes(module: GraphModule) -> tuple[Shape, ...]:
    """The axes of each input, by the symbols that capture left on them."""
    values = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
    return tuple(tuple(_axis(size) for size in value.shape) for value in values)


@contextmanager
def keeping_bounds(module: GraphModule) -> Iterator[None]:
    """Free sizes have the same bounds afterwards as before.

    Decompositions ask of symbolic sizes whether they are small, and the answer for capture's own example
    would stay on the graph as a bound: MobileNetV2, once lowered to ONNX, took batches of at most 15.
    """
    shapes = [node.meta["val"].shape for node in module.graph.find_nodes(op="placeholder")]
    free = [size for shape in shapes for size in shape if isinstance(size, torch.SymInt)]
    bounds = [(size.node.shape_env.var_to_range, dict(size.node.shape_env.var_to_range)) for size in free]
    try:
        yield
    finally:
        for ranges, before in bounds:
            ranges.update(before)


def _axis(size: Any) -> Axis:
    if isinstance(size, int):
        return Axis(size, size)
    bounds = size.node.shape_env.bound_sympy(size.node.expr)
    # The exporter takes 0 and 1 for constants, so that every free size is 2 or more to it.
    least = 0 if bounds.lower <= 2 else int(bounds.lower)
    return Axis(least, int(bounds.upper) if bounds.upper.is_Integer else math.inf)


def has_free_sizes(module: GraphModule) -> bool:
    """Whether any axis but the batch is free."""
    return any(axis.is_free for shape in input_shapes(module) for axis in shape[1:])


def misfit(tensor: Tensor, shape: Shape) -> str:
    """What is wrong with an input's shape and the fix, to follow its name; empty if it fits."""
    sizes = tuple(tensor.shape)
    known = len(sizes) == len(shape)
    wrong = [
        number
        for number, (size, axis) in enumerate(zip(sizes, shape, strict=False))
        if not axis.least <= size <= axis.most
    ]
    if known and not wrong:
        return ""
    takes = f"has shape {sizes}; the model takes ({', '.join(map(str, shape))})"
    if not known:
        return f"{takes}: capture it on such inputs"
    if shape[wrong[0]].is_free:
        return takes
    if any(axis.is_free for axis in shape[1:]):
        return f"{takes}; axis {wrong[0]} is fixed by the model itself"
    fix = "capture it on such inputs, or for any size with free_sizes=True (--free-sizes)"
    return f"{takes}; axis {wrong[0]} was fixed at capture: {fix}"


def check_shapes(inputs: Sequence[Tensor], shapes: tuple[Shape, ...]) -> None:
    """Raises InputError, with the number of the input, for inputs of other number or shape."""
    if len(inputs) != len(shapes):
        raise InputError(f"the model takes {len(shapes)} inputs; {len(inputs)} were given")
    for number, (tensor, shape) in enumerate(zip(inputs, shapes, strict=True), 1):
        if wrong := misfit(tensor, shape):
            raise InputError(f"input {number} {wrong}")


def mistyped(tensor: Tensor, dtype: torch.dtype) -> str:
    """What is wrong with an input's type and the fix, to follow its name; empty if it is ``dtype``."""
    if tensor.dtype == dtype:
        return ""
    return f"is of {tensor.dtype}; the model takes {dtype}: use .to({dtype})"


def input_types(module: GraphModule) -> tuple[torch.dtype, ...]:
    """The type of each input of a graph."""
    return tuple(node.meta["val"].dtype for node in module.graph.find_nodes(op="placeholder"))


def check_types(inputs: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> None:
    """Raises InputError, with the number of the input, for inputs of other types than these."""
    for number, (tensor, dtype) in enumerate(zip(inputs, dtypes, strict=True), 1):
        if wrong := mistyped(tensor, dtype):
            raise InputError(f"input {number} {wrong}")


def check_inputs(module: GraphModule, inputs: tuple[Tensor, ...], where: str) -> None:
    """Raises InputError if inputs do not fit the captured graph: number, shape, dtype, NaN or Inf."""
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    if len(inputs) != len(placeholders):
        raise InputError(f"{where} has {len(inputs)} inputs; the model takes {len(placeholders)}")
    for tensor, placeholder, shape in zip(inputs, placeholders, input_shapes(module), strict=True):
        if wrong := misfit(tensor, shape) or mistyped(tensor, placeholder.meta["val"].dtype):
            raise InputError(f"{where} {wrong}")
        if not tensor.numel():
            raise InputError(f"{where} is empty; leave it out")
        if not tensor.is_floating_point() or tensor.isfinite().all():
            continue
        sign = absorbed(placeholder)  # of a mask that is added before a softmax, -inf is right
        if tensor.isnan().any() or not sign or (tensor == -sign * math.inf).any():
            raise InputError(f"{where} holds NaN or Inf; clean the data")
