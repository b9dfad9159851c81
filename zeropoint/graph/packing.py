"""Packing: weights as the integers they are, with their unpacking written in the graph as plain ATen.

Eight-bit weights are stored as int8. Fewer bits are stored as bit planes: plane k holds bit k of every
weight, eight weights to the byte, so that b bits take b/8 bytes whatever b is, and one piece of arithmetic
unpacks all.
"""

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph import quantizers
from zeropoint.graph.operators import aten
from zeropoint.graph.quantizers import Quantizer, insert_weight
from zeropoint.numerics.scheme import Granularity, Scheme, dequantize, per_channel_shape

WORTH_HALVING = 1024  # weights, of which half the bytes are more than what tells an engine to unpack them


def pack(module: GraphModule, *, planes: bool = True) -> GraphModule:
    """A copy of the graph with integer weights in place of fake-quantized float ones; the same outputs.

    ``planes=False`` keeps weights of fewer than eight bits as int8, for engines that compute with those.
    """
    module = fx.copy(module)
    for quantizer in list(quantizers.quantizers(module)):
        if quantizer.is_weight:
            _pack_weight(module, quantizer, planes and quantizer.scheme.bits < 8)
    fx.remove_unused(module)
    return module


def _pack_weight(module: GraphModule, quantizer: Quantizer, planes: bool) -> None:
    graph, name, scheme = module.graph, str(quantizer.source.target), quantizer.scheme
    integers = quantizer.integers(module)
    shape = per_channel_shape(quantizer.scale, integers.dim(), quantizer.axis)

    def constant(part: str, value: Tensor) -> Node:
        return graph.get_attr(fx.set_tensor(module, f"{name}__{part}", value))

    with graph.inserting_before(quantizer.node):
        if planes:
            levels = (integers.int() - scheme.qmin).to(torch.uint8)
            node = _unpacked(module, constant("planes", to_planes(levels, scheme.bits)), name, integers.shape)
            zero_point = quantizer.zero_point - scheme.qmin
        else:
            node = constant("integers", integers)
            zero_point = quantizer.zero_point
        offsets = constant("zero_point", zero_point.float().reshape(shape)) if zero_point.any() else None
        value = dequantized(node, constant("scale", quantizer.scale.reshape(shape)), offsets)
    value.meta = dict(quantizer.node.meta)
    quantizer.node.replace_all_uses_with(value)


def dequantized(integers: Node, scale: Node, zero_point: Node | None) -> Node:
    """``scale * (integers - zero_point)``, Jacob et al. 2018, eq. 1, at the graph's insertion point."""
    graph = integers.graph
    value = graph.call_function(aten._to_copy.default, (integers,), {"dtype": torch.float32})
    if zero_point is not None:
        value = graph.call_function(aten.sub.Tensor, (value, zero_point))
    return graph.call_function(aten.mul.Tensor, (value, scale))


def to_planes(levels: Tensor, bits: int) -> Tensor:
    """``bits`` planes of uint8, (bits, ceil(n / 8)), of n levels from 0 to 2**bits - 1."""
    flat = torch.nn.functional.pad(levels.flatten(), (0, -levels.numel() % 8)).reshape(1, -1, 8)
    plane = torch.arange(bits, dtype=torch.uint8).reshape(-1, 1, 1)
    ones = (flat >> plane) & 1
    return (ones << torch.arange(8, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)


def from_planes(planes: Tensor, shape: torch.Size) -> Tensor:
    """The uint8 levels that ``to_planes`` packed, in their shape: the arithmetic ``_unpacked`` writes."""
    ones = (planes.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1
    places = 2 ** torch.arange(planes.shape[0], dtype=torch.uint8).reshape(-1, 1, 1)
    return (ones * places).sum(0, dtype=torch.uint8).flatten()[: shape.numel()].reshape(shape)


def _unpacked(module: GraphModule, planes: Node, name: str, shape: torch.Size) -> Node:
    graph = module.graph
    bits = fx.tensor_of(module, planes).shape[0]
    places = (2 ** torch.arange(bits, dtype=torch.uint8)).reshape(-1, 1, 1)
    eight = graph.get_attr(fx.set_tensor(module, f"{name}__bit", torch.arange(8, dtype=torch.uint8)))
    place = graph.get_attr(fx.set_tensor(module, f"{name}__place", places))
    wide = graph.call_function(aten.unsqueeze.default, (planes, -1))
    shifted = graph.call_function(aten.bitwise_right_shift.Tensor, (wide, eight))
    ones = graph.call_function(aten.bitwise_and.Scalar, (shifted, 1))
    values = graph.call_function(aten.mul.Tensor, (ones, place))
    summed = graph.call_function(aten.sum.dim_IntList, (values, [0]), {"dtype": torch.uint8})
    flat = graph.call_function(aten.reshape.default, (summed, [-1]))
    kept = graph.call_function(aten.slice.Tensor, (flat, 0, 0, shape.numel()))
    return graph.call_function(aten.reshape.default, (kept, list(shape)))


def unpack(module: GraphModule) -> GraphModule:
    """A copy of the graph with fake-quantized float weights again, every value as it was on the grid."""
    module = fx.copy(module)
    nodes = {str(node.target): node for node in module.graph.nodes if node.op == "get_attr"}
    for target, node in nodes.items():
        name, _, kind = target.rpartition("__")
        if kind in ("integers", "planes") and f"{name}__scale" in nodes:
            _unpack_weight(module, nodes, name, node)
    fx.remove_unused(module)
    return module


def _unpack_weight(module: GraphModule, nodes: dict[str, Node], name: str, stored: Node) -> None:
    scale_node = nodes[f"{name}__scale"]
    (value,) = scale_node.users
    scale = fx.tensor_of(module, scale_node)
    offset_node = nodes.get(f"{name}__zero_point")
    offset = torch.zeros_like(scale) if offset_node is None else fx.tensor_of(module, offset_node)
    tensor = fx.tensor_of(module, stored)
    if stored.target == f"{name}__integers":
        integers, scheme_bits, signed = tensor, 8, tensor.dtype == torch.int8
    else:
        scheme_bits, signed = tensor.shape[0], True
        shape = torch.Size(value.meta["val"].shape)
        qmin = Scheme(scheme_bits).qmin
        integers = (from_planes(tensor, shape).int() + qmin).to(torch.int8)
        offset = offset + qmin
    axis = next((d for d, size in enumerate(scale.shape) if size > 1), 0)
    granularity: Granularity = "per-channel" if scale.shape[axis] == integers.shape[axis] else "per-tensor"
    scheme = Scheme(scheme_bits, signed, not offset.any(), granularity)
    scales, zero_points = scale.flatten(), offset.flatten().int()
    zero_points = zero_points.expand(scales.shape).contiguous()
    with module.graph.inserting_before(stored):
        value_on_grid = dequantize(integers, scales, zero_points, axis)
        weight = module.graph.get_attr(fx.set_tensor(module, name, value_on_grid, trainable=True))
    weight.meta["val"] = fx.tensor_of(module, weight)
    value.replace_all_uses_with(weight)
    insert_weight(module, weight, scales, zero_points, scheme, axis)
