"""Biases on the grid of integer kernels, so that engines add what the Program says.

Jacob et al. 2018 (arXiv 1712.05877), section 2.4: a bias is added to the int32 sums of products, whose unit
is the input's scale times the weight's. ONNX Runtime rounds to that by itself; at 4 bits, where the unit is
coarse, ResNet-20 then gave another class than its Program for 1.7% of the images, and for none once the
Program has the same biases. Nearness to float does not change by it.
"""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.operators import Weighted, bias_of, weighted
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import Quantizer, quantizers
from zeropoint.numerics.scheme import SMALLEST_SCALE
from zeropoint.passes.bias import move_bias

ROOM = 1 << 24  # units that a bias may have: float32 holds these to the unit, and int32 has room for the rest


def make_room(module: GraphModule) -> None:
    """Widens scales of channels that are all but dead until their biases fit int32, in place.

    A channel of zeros gets the least scale that does. ResNets have such channels, with biases folded from
    their batch norms; ONNX Runtime lets them overflow.
    """
    for _, _, bias, input, weight in _integer_layers(module):
        if weight.scheme.granularity == "per-channel" and len(bias) == len(weight.scale):
            least = (bias.abs() / (input.scale.double() * ROOM)).clamp(min=SMALLEST_SCALE).float()
            values = fx.tensor_of(module, weight.source).movedim(weight.axis, 0).flatten(1)
            scale = torch.where(values.any(1), torch.maximum(weight.scale, least), least)
            node = weight.node.args[1]
            assert isinstance(node, Node)
            fx.set_tensor(module, str(node.target), scale)
            node.meta["val"] = scale


def round_biases(program: Program) -> Program:
    """The Program with every bias a whole number of units, where input and weight are integers."""
    module = fx.copy(program.module)
    for layer, description, bias, input, weight in list(_integer_layers(module)):
        unit = bias_units(input, weight, len(bias))
        if unit is not None:
            move_bias(module, layer, description, (bias / unit).round() * unit - bias)
    fx.remove_unused(module)
    return dataclasses.replace(program, module=module)


def bias_units(input: Quantizer, weight: Quantizer, size: int) -> Tensor | None:
    """What a unit of the int32 sums is worth (float64), by output; None where scales are of other numbers."""
    unit = (input.scale * weight.scale).double()  # of float32, as the engine multiplies them
    return unit.expand(size) if len(unit) in (1, size) else None


def _integer_layers(module: GraphModule) -> Iterator[tuple[Node, Weighted, Tensor, Quantizer, Quantizer]]:
    """Layers of 8-bit inputs and weights at most, their biases (float64), and the two quantizers."""
    by_node = {quantizer.node: quantizer for quantizer in quantizers(module)}
    for layer in module.graph.nodes:
        description = weighted(layer)
        bias = bias_of(layer, description) if description else None
        if description is None or bias is None:
            continue
        input, weight = (by_node.get(layer.args[at]) for at in (description.input, description.weight))
        if input and weight and max(input.scheme.bits, weight.scheme.bits) <= 8:
            yield layer, description, fx.tensor_of(module, bias).double(), input, weight
