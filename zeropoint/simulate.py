"""Simulate: what a Program computes on a processor whose sums of two products saturate, on any machine.

A sum that saturates is the exact one less what lies beyond 16 bits. So a layer is computed as always, and
what its few pairs of large weights (``saturation``) have too much is computed beside it and taken off.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.operators import FAKE_QUANTIZE, WEIGHTED, Weighted, ungrouped, weighted
from zeropoint.program import Program, flat_tensors
from zeropoint.quantizers import Quantizer, Simulation, quantizers
from zeropoint.saturation import Pairing, neighbours, overflows, pairings

TOGETHER = 256  # pairs that are computed at a time
LOWEST, HIGHEST = -(1 << 15), (1 << 15) - 1


@dataclass(frozen=True)
class Overflowing:
    """The pairs of weights of a layer that can overflow: each has an entry in every tensor.

    ``first``, ``second``: the weights; ``channel``: the input channel of the first, the second's is the next;
    ``output``: the channel that they add to; ``place``: where in the kernel, (pairs, axes of it).
    """

    quantizer: Quantizer
    pairing: Pairing
    first: Tensor
    second: Tensor
    channel: Tensor
    output: Tensor
    place: Tensor


def overflowing(module: GraphModule, processor: str) -> dict[Node, Overflowing]:
    """By the layer, its pairs of weights that can overflow on a processor; layers without any are left out.

    Of kernels with an odd number of input channels the pairs are those of one place: not all engines'.
    """
    paired = pairings(module, processor)
    by_node = {one.node: one for one in quantizers(module) if one.is_weight} if paired else {}
    found = {}
    for layer in module.graph.nodes:
        description = weighted(layer)
        quantizer = by_node.get(ungrouped(layer.args[description.weight])) if description else None
        pairing = paired.get(str(quantizer.source.target)) if quantizer else None
        if description and quantizer and pairing and layer.args[description.input].target in FAKE_QUANTIZE:
            pairs = _pairs(module, layer, description, quantizer, pairing)
            if len(pairs.first):
                found[layer] = pairs
    return found


def _pairs(
    module: GraphModule, layer: Node, description: Weighted, quantizer: Quantizer, pairing: Pairing
) -> Overflowing:
    integers = quantizer.integers(module).float()
    first, second = neighbours(integers, pairing.axis)
    at = overflows(first, second).nonzero()
    pair, output = at[:, pairing.axis], at[:, 1 - pairing.axis]
    channel = 2 * pair
    if description.family != "linear":  # weights know the channels of their group alone
        groups = cast(int, layer.args[6]) if len(layer.args) > 6 else 1
        inputs, outputs = integers.shape[pairing.axis], integers.shape[1 - pairing.axis]
        if pairing.axis == 1:
            channel = channel + output // (outputs // groups) * inputs
        else:
            output = output + channel // (inputs // groups) * outputs
    values = first[tuple(at.t())], second[tuple(at.t())]
    return Overflowing(quantizer, pairing, *values, channel, output, at[:, 2:])


class OnProcessor(Simulation):
    """Runs a quantized graph with the arithmetic of a processor."""

    def __init__(self, module: GraphModule, processor: str) -> None:
        super().__init__(module)
        self._overflowing = overflowing(module, processor)
        self._inputs = {layer.args[WEIGHTED[layer.target].input] for layer in self._overflowing}
        self._grids: dict[Node, tuple[Any, Any]] = {}  # scale and zero point of inputs, perhaps of run time

    def run_node(self, n: Node) -> Any:
        """A node's value; that of a layer without what its sums have too much."""
        value = super().run_node(n)
        if n in self._inputs:
            scale, zero_point = (self.env[one] if isinstance(one, Node) else one for one in n.args[1:3])
            self._grids[n] = scale, zero_point
        if n in self._overflowing:
            input = cast(Node, n.args[WEIGHTED[n.target].input])
            return value - excess(n, self._overflowing[n], self.env[input], self._grids[input], value)
        return value


def excess(layer: Node, pairs: Overflowing, input: Tensor, grid: tuple[Any, Any], output: Tensor) -> Tensor:
    """What the sums of a layer have beyond 16 bits, in the shape of its ``output``.

    ``grid``: scale and zero point of the quantized ``input``.
    """
    is_linear, (scale, zero_point) = WEIGHTED[layer.target].family == "linear", grid
    codes = (input / scale).round() + zero_point
    is_signed = cast(int, cast(Node, layer.args[WEIGHTED[layer.target].input]).args[3]) < 0
    codes = (codes + 128 if is_signed else codes).movedim(-1 if is_linear else 1, -1)
    total = torch.zeros_like(output)
    for part in torch.arange(len(pairs.first)).split(TOGETHER):
        channel = pairs.channel[part]
        sums = codes[..., channel] * pairs.first[part] + codes[..., channel + 1] * pairs.second[part]
        beyond = sums - sums.clamp(LOWEST, HIGHEST)
        if not beyond.any():
            continue
        if is_linear:
            total.index_add_(-1, pairs.output[part], beyond)
        else:
            total += _spread(layer, pairs, part, beyond.movedim(-1, 1), output.shape[1])
    unit = scale * pairs.quantizer.scale
    if is_linear:
        return total * unit
    unit = unit.repeat(max(output.shape[1] // len(unit), 1))  # of a transposed convolution, group by group
    return total * unit.reshape(1, -1, *[1] * (output.dim() - 2))


def _spread(layer: Node, pairs: Overflowing, part: Tensor, beyond: Tensor, outputs: int) -> Tensor:
    """What comes to each output, by the layer's own convolution, with a weight of one for each pair."""
    kernel = [int(size) for size in cast(Node, layer.args[1]).meta["val"].shape[2:]]
    first, second, sizes = torch.arange(len(part)), pairs.output[part], (len(part), outputs)
    if pairs.quantizer.axis == 0:
        first, second, sizes = second, first, (outputs, len(part))
    weight = torch.zeros(*sizes, *kernel)
    weight[(first, second, *pairs.place[part].t())] = 1.0
    arguments = [beyond, weight, None, *layer.args[3:]]
    if len(arguments) > 6:
        arguments[6] = 1  # group
    return cast(Tensor, cast(Any, layer.target)(*arguments))


def on_processor(program: Program, processor: str) -> Callable[..., tuple[Tensor, ...]]:
    """What gives the output tensors of ``program`` as a processor of that name computes them."""
    simulation = OnProcessor(program.module, processor)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return flat_tensors(simulation.run(*inputs))

    return run
