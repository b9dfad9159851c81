"""Rounding noise: what rounding the channels of a value, or the weights that read them, adds to outputs."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.operators import WEIGHTED, aten
from zeropoint.targets.options import Options
from zeropoint.targets.recipe import Row


def is_convolution(node: Node) -> bool:
    """Whether a layer's channels are along axis 1, of inputs and outputs."""
    return node.target in (aten.conv1d.default, aten.conv2d.default, aten.conv2d.padding, aten.conv1d.padding)


@dataclass(frozen=True)
class Spread:
    """Statistics of each channel of a value: its range, and the sum of ``count`` squares."""

    low: Tensor
    high: Tensor
    squares: Tensor
    count: int

    @property
    def mean_square(self) -> Tensor:
        """Of each channel."""
        return self.squares / self.count


def joined(parts: list[Spread]) -> Spread:
    """The statistics of a value over all batches."""
    return Spread(
        torch.stack([part.low for part in parts]).amin(0).double(),
        torch.stack([part.high for part in parts]).amax(0).double(),
        torch.stack([part.squares for part in parts]).sum(0).double(),
        sum(part.count for part in parts),
    )


def step_of(value: Spread, scale: Tensor, bits: int) -> float:
    """The step size of a value's grid, once scaled."""
    return float((value.high / scale).max() - (value.low / scale).min()) / ((1 << bits) - 1)


@dataclass(frozen=True)
class Reader:
    """A layer that reads scaled channels, and what noise in its outputs does to those of the network."""

    input: Node
    largest: Tensor  # absolute weight from an input channel to an output, (groups, outputs, inputs)
    area: int  # of the kernel
    gains: Tensor  # of squared noise in each output, (groups, outputs)
    mean_squares: Tensor  # of the channels, (groups, inputs)
    row: Row  # what the recipe says of it


def reader_of(
    module: GraphModule,
    layer: Node,
    seen: dict[Node, Spread],
    slopes: dict[str, Tensor],
    options: Options,
) -> Reader:
    """A layer as the Reader of its input, whose statistics were ``seen``, with ``slopes`` at its output."""
    description = WEIGHTED[layer.target]
    read, parameter = (cast(Node, layer.args[n]) for n in (description.input, description.weight))
    weight = by_group(layer, fx.tensor_of(module, parameter)).double()
    groups, area = len(weight), weight.shape[3]
    gains = slopes.get(layer.name, torch.zeros(groups)).reshape(groups, -1)
    squares, row = seen[read].mean_square.reshape(groups, -1), options.layer(fx.module_name(layer))
    return Reader(read, weight.abs().amax(3), area, gains, squares, row)


def weight_noise(reader: Reader, scale: Tensor) -> float:
    """What rounding the scaled weights adds to the outputs."""
    bits = reader.row.weight_bits
    if bits is None:
        return 0.0
    grouped = scale.reshape(reader.mean_squares.shape)
    ends = (reader.largest * grouped.unsqueeze(1)).amax(2)
    if reader.row.weight_granularity == "per-tensor":
        ends = ends.max().expand_as(ends)
    steps = 2 * ends / ((1 << bits) - 1)
    inputs = (reader.mean_squares / grouped**2).sum(1)
    return reader.area * float(((steps.square() * reader.gains).sum(1) / 12 * inputs).sum())


def by_group(layer: Node, weight: Tensor) -> Tensor:
    """The weight as (groups, outputs, inputs, area); the area is that of a convolution's kernel."""
    if not is_convolution(layer):
        return weight.movedim(WEIGHTED[layer.target].channel_axis, 0)[None, :, :, None]
    groups = cast(int, layer.args[6]) if len(layer.args) > 6 else 1
    by_group: Tensor = weight.flatten(2).unflatten(0, (groups, -1))
    return by_group
