"""Biases on the grid of integer kernels, so that engines add what the Program says.

Jacob et al. 2018 (arXiv 1712.05877), section 2.4: a bias is added to the int32 sums of products, whose unit is
the input's scale times the weight's. ONNX Runtime rounds to that by itself; at 4 bits, where the unit is
coarse, ResNet-20 then gave another class than its Program for 1.7% of the images, and for none once the Program
has the same biases. Nearness to float does not change by it.
"""

import dataclasses
from typing import cast

from torch.fx import Node

from zeropoint import graph as fx
from zeropoint.methods.bias import move_bias
from zeropoint.operators import bias_of, weighted
from zeropoint.program import Program
from zeropoint.quantizers import quantizers

LARGEST = 1 << 30  # units: a bias beyond fits no int32 sum, and stays as it is


def round_biases(program: Program) -> Program:
    """The Program with every bias at the nearest whole number of units, where input and weight are integers."""
    module = fx.copy(program.module)
    by_node = {quantizer.node: quantizer for quantizer in quantizers(module)}
    for layer in list(module.graph.nodes):
        description = weighted(layer)
        bias = bias_of(layer, description) if description else None
        if description is None or bias is None:
            continue
        input, weight = (
            by_node.get(cast(Node, layer.args[position]))
            for position in (description.input, description.weight)
        )
        if input is None or weight is None or max(input.scheme.bits, weight.scheme.bits) > 8:
            continue
        values = fx.tensor_of(module, bias).double()
        unit = (input.scale * weight.scale).double()  # of float32, as the engine multiplies them
        if len(unit) in (1, len(values)):
            units = values / unit
            rounded = (units.round() * unit).where(units.abs() < LARGEST, values)
            move_bias(module, layer, description, rounded - values)
    fx.remove_unused(module)
    return dataclasses.replace(program, module=module)
