"""Lowering to quantize/dequantize pairs around float operators, which compilers fuse into integer kernels.

Both the PyTorch compiler and the ONNX exporter know ``torch.ops.quantized_decomposed``; weights become
integer constants with a dequantize after them.
"""

from typing import Any

import torch
from torch.fx import GraphModule, Node

from zeropoint.engines.tables import look_up_integers
from zeropoint.graph import edits as fx
from zeropoint.graph.operators import CLAMPS, FAKE_QUANTIZE_DYNAMIC, aten
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import Quantizer, drop_wide, quantizers, round_groups
from zeropoint.torch_private.pairs import pairs


def to_pairs(program: Program, *, keep_wide: bool = False) -> GraphModule:
    """The Program's graph with every quantizer as a quantize/dequantize pair, or an integer weight.

    Quantizers of more than eight bits are left out unless ``keep_wide``.
    """
    module = look_up_integers(program).module
    if not keep_wide:
        drop_wide(module)
    _drop_implied_clamps(module)
    round_groups(module)
    for quantizer in list(quantizers(module)):
        with module.graph.inserting_before(quantizer.node):
            lowered = (_weight if quantizer.is_weight else _activation)(module, quantizer)
        lowered.meta = dict(quantizer.node.meta)
        quantizer.node.replace_all_uses_with(lowered)
    for node in [node for node in module.graph.nodes if node.target is FAKE_QUANTIZE_DYNAMIC]:
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(_dynamic(module, node))
    fx.remove_unused(module)
    return module


def scale_name(weight: str) -> str:
    """How the scales of a weight per channel are called in the graph that ``to_pairs`` gives."""
    return f"{weight}_scale"


def _drop_implied_clamps(module: GraphModule) -> None:
    """Drops each ReLU or clip whose own quantizer clamps at least as tightly: no output changes by that.

    A compiler then finds the convolution right before the quantizer of its output, and makes them one.
    """
    for quantizer in quantizers(module):
        clamp, scheme = quantizer.source, quantizer.scheme
        if clamp.target in CLAMPS and len(clamp.users) == 1:
            low, high = CLAMPS[clamp.target](*clamp.args)
            scale, zero_point = _constants(quantizer)
            low_implied = low is None or low / scale + zero_point < scheme.qmin + 0.5
            high_implied = high is None or high / scale + zero_point > scheme.qmax - 0.5
            if low_implied and high_implied:
                quantizer.node.update_arg(0, clamp.args[0])


def _weight(module: GraphModule, quantizer: Quantizer) -> Node:
    graph, name, scheme = module.graph, str(quantizer.source.target), quantizer.scheme
    integers = quantizer.integers(module)
    constant = graph.get_attr(fx.set_tensor(module, f"{name}_integers", integers))
    levels = (scheme.qmin, scheme.qmax, integers.dtype)
    if scheme.granularity == "per-tensor":
        return graph.call_function(
            pairs.dequantize_per_tensor.default, (constant, *_constants(quantizer), *levels)
        )
    scale = graph.get_attr(fx.set_tensor(module, scale_name(name), quantizer.scale))
    zero_point = graph.get_attr(fx.set_tensor(module, f"{name}_zero_point", quantizer.zero_point.long()))
    arguments = (constant, scale, zero_point, quantizer.axis, *levels)
    return graph.call_function(pairs.dequantize_per_channel.default, arguments)


def _activation(module: GraphModule, quantizer: Quantizer) -> Node:
    graph, scheme = module.graph, quantizer.scheme
    value: Any = quantizer.node.args[0]  # by now the pair of a quantizer that came before
    scale, zero_point = _constants(quantizer)
    types = (torch.uint8, torch.int8) if scheme.bits <= 8 else (torch.uint16, torch.int16)
    dtype = types[scheme.signed]
    if scheme.bits not in (8, 16):  # the engines' integer types saturate at these, so the range is cut before
        ends = ((end - zero_point) * scale for end in (scheme.qmin, scheme.qmax))
        value = graph.call_function(aten.clamp.default, (value, *ends))
    arguments = (scale, zero_point, scheme.qmin, scheme.qmax, dtype)
    integers = graph.call_function(pairs.quantize_per_tensor.default, (value, *arguments))
    return graph.call_function(pairs.dequantize_per_tensor.default, (integers, *arguments))


def _constants(quantizer: Quantizer) -> tuple[float, int]:
    return quantizer.scale.item(), int(quantizer.zero_point.item())


def _dynamic(module: GraphModule, node: Node) -> Node:
    graph = module.graph
    source, *parameters = node.args
    # The compiler stumbles over an integer linear layer whose input of three dimensions is no contiguous one.
    source = graph.call_function(aten.contiguous.default, (source,))
    integers = graph.call_function(pairs.quantize_per_tensor.tensor, (source, *parameters, torch.uint8))
    return graph.call_function(pairs.dequantize_per_tensor.tensor, (integers, *parameters, torch.uint8))
