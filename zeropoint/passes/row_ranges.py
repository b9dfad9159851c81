"""Row ranges: run-time quantizers that give each row a range of its own, on engines that have one for all.

An item beside an outlier in its batch, or a token beside one in its sequence, would otherwise be rounded by
the outlier's range. With ``r`` the size of a row ``x``, a linear layer is computed as
``r · (W (x / r)) + b``. Per-token ranges are those of ZeroQuant (Yao et al. 2022, section 4.1).

The size is ``max(max x, -min x · 128 / 127)``, so that a row that is quantized reaches to 1 or to -127/128.
The range of all rows is then [-127/128, 1] where they have both signs, with a step of exactly 1/128 and zero
at exactly 127. From [-1, 1] zero would lie at 127.5, which engines round up or down.
"""

import dataclasses
from typing import cast

from torch.fx import Node

from zeropoint.graph import edits as fx
from zeropoint.graph.attention import inserted
from zeropoint.graph.operators import FAKE_QUANTIZE_DYNAMIC, aten, bias_of, weighted
from zeropoint.graph.program import Program

SMALLEST = 1e-30  # a row of zeros is divided by this
_WITHOUT_BIAS = {aten.addmm.default: aten.mm.default}  # the others take None, or no bias at all


def scale_rows(program: Program) -> Program:
    """The Program with the rows of every value that is quantized at run time scaled by their sizes."""
    module = fx.copy(program.module)
    for quantizer in module.graph.find_nodes(op="call_function", target=FAKE_QUANTIZE_DYNAMIC):
        source = cast(Node, quantizer.args[0])
        readers = _range_of(quantizer, source)
        with module.graph.inserting_before(readers[0]):
            highest = inserted(source, aten.amax.default, source, [-1], True)
            lowest = inserted(source, aten.amin.default, source, [-1], True)
            below = inserted(source, aten.mul.Tensor, lowest, -128 / 127)
            size = inserted(source, aten.maximum.default, highest, below)
            scale = inserted(source, aten.clamp_min.default, size, SMALLEST)
            scaled = inserted(source, aten.div.Tensor, source, scale)
        for reader in [*readers, quantizer]:
            reader.replace_input_with(source, scaled)
        for layer in list(quantizer.users):
            _scale_back(layer, scale)
    fx.remove_unused(module)
    return dataclasses.replace(program, module=module)


def _range_of(quantizer: Node, source: Node) -> list[Node]:
    """The nodes by which a quantizer finds the range of its source, in order; the model may have others."""
    found, left = [], list(cast(tuple[Node, Node], quantizer.args[1:3]))
    while left:
        node = left.pop()
        if source in node.all_input_nodes:
            found.append(node)
        else:
            left += node.all_input_nodes
    return sorted(set(found))


def _scale_back(layer: Node, scale: Node) -> None:
    """Has a layer that reads scaled rows give what it gave of the rows themselves."""
    description = weighted(layer)
    assert description is not None
    bias, readers = bias_of(layer, description), list(layer.users)
    if bias is not None:
        if layer.target in _WITHOUT_BIAS:
            layer.target, layer.args = _WITHOUT_BIAS[layer.target], layer.args[1:]
        else:
            fx.replace_argument(layer, cast(int, description.bias), None)
    with layer.graph.inserting_after(layer):
        output = inserted(layer, aten.mul.Tensor, layer, scale)
    if bias is not None:
        with layer.graph.inserting_after(output):
            output = inserted(layer, aten.add.Tensor, output, bias)
    for reader in readers:
        reader.replace_input_with(layer, output)
