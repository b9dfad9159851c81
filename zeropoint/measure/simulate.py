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
from torch.nn import functional

from zeropoint import engines
from zeropoint.graph.operators import FAKE_QUANTIZE, WEIGHTED, ungrouped, weighted
from zeropoint.graph.program import Program, flat_tensors
from zeropoint.graph.quantizers import Quantizer, Simulation, quantizers
from zeropoint.targets.saturation import Pairing, neighbours, overflows, pairings, within_limits

TOGETHER = 256  # pairs that are computed at a time
LOWEST, HIGHEST = -(1 << 15), (1 << 15) - 1


@dataclass(frozen=True)
class Overflowing:
    """The pairs of weights of a layer that can overflow: each has an entry in every tensor.

    ``first``, ``second``: the weights; ``channels``: their input channels, (pairs, 2); ``output``: the
    channel that they add to; ``places``: where in the kernel they are, (pairs, 2, axes of it).
    """

    quantizer: Quantizer
    pairing: Pairing
    first: Tensor
    second: Tensor
    channels: Tensor
    output: Tensor
    places: Tensor


def exceeding(program: Program, processor: str) -> list[Node]:
    """The layers with weights that can overflow on a processor, in whatever order an engine pairs them."""
    found = []
    for layer, quantizer, pairing in _paired(program.module, processor):
        integers = quantizer.integers(program.module).float()
        if not torch.equal(within_limits(integers, pairing), integers):
            found.append(layer)
    return found


def overflowing(program: Program, processor: str) -> dict[Node, Overflowing]:
    """By the layer, its pairs of weights that can overflow on a processor; layers without any are left out.

    In the order of the engine that the Program was quantized for: where a kernel has an odd number of input
    channels ONNX Runtime goes on with the next place, which the others do not.
    """
    found = {}
    across = program.target in engines.NAMES and engines.target(program.target).pairs_across_places
    for layer, quantizer, pairing in _paired(program.module, processor):
        goes_on = pairing.order == "any" and pairing.axis == 1 and across
        pairs = _pairs(program.module, layer, quantizer, pairing, goes_on)
        if len(pairs.first):
            found[layer] = pairs
    return found


def _paired(module: GraphModule, processor: str) -> list[tuple[Node, Quantizer, Pairing]]:
    """The layers whose weights are added two at a time in 16 bits, with these weights."""
    paired = pairings(module, processor)
    by_node = {one.node: one for one in quantizers(module) if one.is_weight} if paired else {}
    found = []
    for layer in module.graph.nodes:
        description = weighted(layer)
        quantizer = by_node.get(ungrouped(layer.args[description.weight])) if description else None
        pairing = paired.get(str(quantizer.source.target)) if quantizer else None
        if description and quantizer and pairing and layer.args[description.input].target in FAKE_QUANTIZE:
            found.append((layer, quantizer, pairing))
    return found


def _pairs(
    module: GraphModule, layer: Node, quantizer: Quantizer, pairing: Pairing, goes_on: bool
) -> Overflowing:
    """``goes_on``: whether weights are paired as they come place by place, not at each place by itself."""
    integers = quantizer.integers(module).float()
    sizes = list(integers.shape[2:])
    if goes_on:
        rows = integers.movedim(1, -1).flatten(1)
        first, second = neighbours(rows, 1)
        at = overflows(first, second).nonzero()
        output, index = at[:, 0], torch.stack([2 * at[:, 1], 2 * at[:, 1] + 1], 1)
        values = first[tuple(at.t())], second[tuple(at.t())]
        place, channels = index // integers.shape[1], index % integers.shape[1]
        places = torch.stack(torch.unravel_index(place, sizes), 2)
    else:
        first, second = neighbours(integers, pairing.axis)
        at = overflows(first, second).nonzero()
        values = first[tuple(at.t())], second[tuple(at.t())]
        output, channel = at[:, 1 - pairing.axis], 2 * at[:, pairing.axis]
        channels = torch.stack([channel, channel + 1], 1)
        places = at[:, None, 2:].expand(-1, 2, -1)
    if sizes and WEIGHTED[layer.target].family != "linear":  # weights know the channels of their group alone
        groups = cast(int, layer.args[6]) if len(layer.args) > 6 else 1
        inputs, outputs = integers.shape[pairing.axis], integers.shape[1 - pairing.axis]
        if pairing.axis == 1:
            channels = channels + (output // (outputs // groups) * inputs)[:, None]
        else:
            output = output + channels[:, 0] // (inputs // groups) * outputs
    return Overflowing(quantizer, pairing, *values, channels, output, places)


class OnProcessor(Simulation):
    """Runs a quantized graph with the arithmetic of a processor."""

    def __init__(self, program: Program, processor: str) -> None:
        super().__init__(program.module)
        self._overflowing = overflowing(program, processor)
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
    if cast(int, cast(Node, layer.args[WEIGHTED[layer.target].input]).args[3]) < 0:
        codes, zero_point = codes + 128, zero_point + 128  # as kernels make signed activations unsigned
    total = torch.zeros_like(output)
    for part in torch.split(torch.arange(len(pairs.first)), TOGETHER):
        if is_linear:
            values = [codes[..., channel] for channel in pairs.channels[part].t()]
            total.index_add_(-1, pairs.output[part], _beyond(pairs, part, values, -1))
        elif torch.equal(pairs.places[part, 0], pairs.places[part, 1]):
            values = [codes[:, channel] for channel in pairs.channels[part].t()]
            beyond = _beyond(pairs, part, values, 1)
            total += _spread(layer, pairs.quantizer.axis, pairs.output[part], pairs.places[part, 0], beyond)
        else:
            values = [
                _moved(layer, codes - zero_point, pairs.channels[part, i], pairs.places[part, i]) + zero_point
                for i in (0, 1)
            ]
            total.index_add_(1, pairs.output[part], _beyond(pairs, part, values, 1))
    unit: Tensor = scale * pairs.quantizer.scale
    if is_linear:
        return total * unit
    unit = unit.repeat(max(output.shape[1] // len(unit), 1))  # of a transposed convolution, group by group
    return total * unit.reshape(1, -1, *[1] * (output.dim() - 2))


def _beyond(pairs: Overflowing, part: Tensor, values: list[Tensor], axis: int) -> Tensor:
    """What the sums of two products have beyond 16 bits; pairs lie along ``axis``."""
    shape = [-1 if i == axis % values[0].dim() else 1 for i in range(values[0].dim())]
    weights = (pairs.first[part].reshape(shape), pairs.second[part].reshape(shape))
    sums = values[0] * weights[0] + values[1] * weights[1]
    return sums - sums.clamp(LOWEST, HIGHEST)


def _spread(layer: Node, axis: int, output: Tensor, place: Tensor, beyond: Tensor) -> Tensor:
    """What comes to each output, by the layer's own convolution, with a weight of one for each pair."""
    kernel = [int(size) for size in cast(Node, layer.args[1]).meta["val"].shape[2:]]
    outputs = int(layer.meta["val"].shape[1])
    number = torch.arange(len(output))
    first, second, sizes = (output, number, (outputs, len(output)))
    if axis != 0:
        first, second, sizes = number, output, (len(output), outputs)
    weight = torch.zeros(*sizes, *kernel)
    weight[(first, second, *place.t())] = 1.0
    return _convolved(layer, beyond, weight)


def _moved(layer: Node, codes: Tensor, channel: Tensor, place: Tensor) -> Tensor:
    """The values of a channel that each position of the output meets at a place of the kernel."""
    kernel = [int(size) for size in cast(Node, layer.args[1]).meta["val"].shape[2:]]
    weight = functional.one_hot(channel, codes.shape[1]).float()
    weight = weight.reshape(*weight.shape, *[1] * len(kernel)).repeat(1, 1, *kernel)
    mask = torch.zeros(len(place), 1, *kernel)
    mask[(torch.arange(len(place)), 0, *place.t())] = 1.0
    return _convolved(layer, codes, weight * mask)


def _convolved(layer: Node, value: Tensor, weight: Tensor) -> Tensor:
    """The layer's own convolution of another value with another weight, without a bias."""
    arguments = [value, weight, None, *layer.args[3:]]
    if len(arguments) > 6:
        arguments[6] = 1  # group
    return cast(Tensor, cast(Any, layer.target)(*arguments))


def on_processor(program: Program, processor: str) -> Callable[..., tuple[Tensor, ...]]:
    """What gives the output tensors of ``program`` as a processor of that name computes them."""
    simulation = OnProcessor(program, processor)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return flat_tensors(simulation.run(*inputs))

    return run
