"""Rewrites of a graph of quantize/dequantize pairs into what XNNPACK's partitioner takes."""

import operator
from typing import Any

import torch
from torch.fx import GraphModule

from zeropoint.engines.rewrites import Rewrite
from zeropoint.errors import InputError
from zeropoint.graph import edits as fx
from zeropoint.graph.moves import MOVES
from zeropoint.graph.operators import CLAMPS, FAKE_QUANTIZE_DYNAMIC, WEIGHTED, aten, bias_of
from zeropoint.graph.quantizers import dynamic_ends
from zeropoint.passes.group_ranges import SMALLEST
from zeropoint.torch_private.pairs import pairs

QUANTIZE, DEQUANTIZE = pairs.quantize_per_tensor.default, pairs.dequantize_per_tensor.default
CHANNELS = pairs.dequantize_per_channel.default
DYNAMIC = pairs.dequantize_per_tensor.tensor
GROUPS = pairs.dequantize_per_channel_group.default
FOUR_BITS, EIGHT_BITS = (-8, 7), (-128, 127)
GROUP = 32  # what the number of weights in a group is a multiple of
_PRODUCTS = (aten.matmul.default, aten.mm.default, aten.addmm.default)


# Unsigned integers of other engines' rules as signed ones.


def _unsigned(module: GraphModule) -> list[Any]:
    return [
        node
        for node in module.graph.nodes
        if node.target in (QUANTIZE, DEQUANTIZE) and node.args[-1] is torch.uint8
    ]


def _shift(module: GraphModule, node: Any) -> None:
    value, scale, *levels, _ = node.args
    node.args = (value, scale, *(level - 128 for level in levels), torch.int8)


def _no_reason(module: GraphModule, node: Any) -> str | None:
    return None


# Products with a weight as linear layers.


def _products(module: GraphModule) -> list[Any]:
    return [node for node in module.graph.nodes if node.target in _PRODUCTS]


def _not_of_weight(module: GraphModule, node: Any) -> str | None:
    weight = node.args[WEIGHTED[node.target].weight]
    return None if weight.target in (DEQUANTIZE, CHANNELS) and fx.is_stored(weight.args[0]) else "no weight"


def _to_linear(module: GraphModule, node: Any) -> None:
    description = WEIGHTED[node.target]
    weight, bias = node.args[description.weight], bias_of(node, description)
    integers, *parameters = weight.args
    if weight.target is CHANNELS:
        parameters[2] = 0  # the axis of outputs
    turned = fx.tensor_of(module, integers).t().contiguous()
    with module.graph.inserting_before(node):
        constant = module.graph.get_attr(fx.set_tensor(module, f"{integers.target}_turned", turned))
        outputs_first = module.graph.call_function(weight.target, (constant, *parameters))
    node.target, node.args = aten.linear.default, (node.args[description.input], outputs_first, bias)
    node.kwargs = {}


# Clamps as the activations that are fused.


def _clamps(module: GraphModule) -> list[Any]:
    return [node for node in module.graph.nodes if node.target is aten.clamp.default]


def _open(module: GraphModule, node: Any) -> str | None:
    low, high = CLAMPS[node.target](*node.args[1:])
    return None if low is not None and high is not None else "a side is open"


def _to_hardtanh(module: GraphModule, node: Any) -> None:
    node.target, node.args = aten.hardtanh.default, (node.args[0], *CLAMPS[node.target](*node.args[1:]))
    node.kwargs = {}


# Means over space, which keep the axes.


def _means(module: GraphModule) -> list[Any]:
    return [node for node in module.graph.nodes if node.target is aten.mean.dim]


def _not_over_space(module: GraphModule, node: Any) -> str | None:
    if len(node.args[0].meta["val"].shape) != 4 or sorted(axis % 4 for axis in node.args[1] or ()) != [2, 3]:
        return "not over height and width"
    return "it keeps them" if node.args[2:3] == (True,) else None


def _keep_axes(module: GraphModule, node: Any) -> None:
    users = list(node.users)
    node.args = (node.args[0], [2, 3], True)
    with module.graph.inserting_after(node):
        flat = module.graph.call_function(aten.flatten.using_ints, (node, 1))
    flat.meta = dict(node.meta)
    quantizers = [user for user in users if user.target is QUANTIZE]
    for user in users:
        user.replace_input_with(node, flat)
    if quantizers and len(quantizers) == len(users):
        _pair(module, node, quantizers[0].args[1:])


# Moves between integers.


def _moves(module: GraphModule) -> list[Any]:
    return [node for node in module.graph.nodes if node.target in MOVES]


def _not_on_grid(module: GraphModule, node: Any) -> str | None:
    source = node.args[0]
    if source.target is not DEQUANTIZE or isinstance(node.meta["val"], list | tuple):
        return "its input is float"
    alike = [user for user in node.users if user.target is QUANTIZE and user.args[1:] == source.args[1:]]
    return "it is between quantizers" if len(alike) == len(node.users) == 1 else None


def _keep_grid(module: GraphModule, node: Any) -> None:
    _pair(module, node, node.args[0].args[1:])


def _pair(module: GraphModule, node: Any, parameters: Any) -> None:
    """Puts a quantize/dequantize pair between a node and its readers."""
    graph = module.graph
    with graph.inserting_after(node):
        integers = graph.call_function(QUANTIZE, (node, *parameters))
    with graph.inserting_after(integers):
        floats = graph.call_function(DEQUANTIZE, (integers, *parameters))
    for one in (integers, floats):
        one.meta = dict(node.meta)
    node.replace_all_uses_with(floats, delete_user_cb=lambda user: user is not integers)


# Groups of weights with a scale of their own.


def _groups(module: GraphModule) -> list[Any]:
    return [node for node in module.graph.nodes if node.target in _SHAPES and node.args[0].target is CHANNELS]


_SHAPES = (aten.reshape.default, aten.view.default)


def _not_dynamic(module: GraphModule, node: Any) -> str | None:
    layers = [user for user in node.users if user.target is aten.linear.default]
    if len(layers) < len(node.users) or any(layer.args[0].target is not DYNAMIC for layer in layers):
        return "they are no weights of linear layers whose inputs are quantized at run time"
    integers, *_, low, high, _ = node.args[0].args
    size = fx.tensor_of(module, integers).shape[1]
    if (low, high) != FOUR_BITS or size % GROUP:
        raise InputError(
            f"XNNPACK has kernels for groups of 4-bit weights whose sizes are multiples of {GROUP}, and"
            f" {fx.module_name(layers[0])} has groups of {size} of {(high - low).bit_length()} bits"
        )
    return None


def _to_group_scales(module: GraphModule, node: Any) -> None:
    integers, scale, zero_point, _, low, high, dtype = node.args[0].args
    rows = fx.tensor_of(module, integers)
    shape = node.meta["val"].shape
    with module.graph.inserting_before(node):
        parts = [
            module.graph.get_attr(fx.set_tensor(module, f"{one.target}_groups", value))
            for one, value in (
                (integers, rows.reshape(shape)),
                (scale, fx.tensor_of(module, scale).reshape(shape[0], -1)),
                (zero_point, fx.tensor_of(module, zero_point).reshape(shape[0], -1)),
            )
        ]
        arguments = (*parts, low, high, dtype, rows.shape[1], torch.float32)
        floats = module.graph.call_function(GROUPS, arguments)
    floats.meta = dict(node.meta)
    node.replace_all_uses_with(floats)


# Weights of layers that compute in float.


def _integer_weights(module: GraphModule) -> list[Any]:
    return [
        node
        for node in module.graph.nodes
        if node.target in (DEQUANTIZE, CHANNELS) and fx.is_stored(node.args[0])
    ]


def _all_integer(module: GraphModule, node: Any) -> str | None:
    return "its layers compute in integers" if all(map(in_integers, node.users)) else None


def in_integers(layer: Any) -> bool:
    """Whether a layer lies between quantizers as XNNPACK wants it, or finds its input's range at run time."""
    description = WEIGHTED.get(layer.target)
    if description is None:
        return False
    source, weight = (layer.args[at] for at in (description.input, description.weight))
    if weight.target not in (DEQUANTIZE, CHANNELS, GROUPS):
        return False
    if source.target is DYNAMIC:
        return weight.target in (CHANNELS, GROUPS)
    if description.family == "conv_transpose" and layer.args[6:7] not in ((), (1,)):
        return False  # XNNPACK has none with groups whose outputs have scales of their own
    users = list(layer.users)
    if len(users) == 1 and users[0].target in (aten.relu.default, aten.hardtanh.default):
        users = list(users[0].users)
    return source.target is DEQUANTIZE and [user.target for user in users] == [QUANTIZE]


def _to_float(module: GraphModule, node: Any) -> None:
    integers, scale, zero_point, *rest = node.args
    if node.target is CHANNELS:
        scale, zero_point = fx.tensor_of(module, scale), fx.tensor_of(module, zero_point)
    floats = node.target(fx.tensor_of(module, integers), scale, zero_point, *rest)
    with module.graph.inserting_before(node):
        constant = module.graph.get_attr(fx.set_tensor(module, f"{integers.target}_float", floats))
    constant.meta = dict(node.meta)
    node.replace_all_uses_with(constant)


# Four-bit weights, which kernels take where the range of the input is found at run time.


def _few_bits(module: GraphModule) -> list[Any]:
    return [node for node in _integer_weights(module) if node.args[-3:-1] != (-128, 127)]


def _dynamic_four_bits(module: GraphModule, node: Any) -> str | None:
    are_dynamic = all(
        WEIGHTED[user.target].input == 0 and user.args[0].target is DYNAMIC for user in node.users
    )
    return "kernels take them" if are_dynamic and node.args[-3:-1] == FOUR_BITS else None


def _to_eight_bits(module: GraphModule, node: Any) -> None:
    node.args = (*node.args[:-3], -128, 127, torch.int8)


# One dequantize for each reader: an operator and its dequantizes are taken together.


def _shared(module: GraphModule) -> list[Any]:
    return [node for node in module.graph.nodes if node.target is DEQUANTIZE and len(node.users) > 1]


def _part(module: GraphModule, node: Any) -> None:
    for user in list(node.users)[1:]:
        with module.graph.inserting_after(node):
            again = module.graph.call_function(node.target, node.args)
        again.meta = dict(node.meta)
        user.replace_input_with(node, again)


def with_run_time_ranges(module: GraphModule) -> GraphModule:
    """A copy whose run-time quantizers are the operators that XNNPACK takes for a range of each row."""
    module = fx.copy(module)
    graph = module.graph
    for quantizer in graph.find_nodes(op="call_function", target=FAKE_QUANTIZE_DYNAMIC):
        source, result = dynamic_ends(quantizer)
        with graph.inserting_before(result):
            asked: Any = (source, *EIGHT_BITS, SMALLEST, torch.int8)
            found = graph.call_function(pairs.choose_qparams.tensor, asked)
            parts = [graph.call_function(operator.getitem, (found, number)) for number in (0, 1)]
            arguments: Any = (*parts, *EIGHT_BITS, torch.int8)
            integers = graph.call_function(pairs.quantize_per_tensor.tensor, (source, *arguments))
            floats = graph.call_function(DYNAMIC, (integers, *arguments))
        floats.meta = dict(result.meta)
        result.replace_all_uses_with(floats)
    fx.remove_unused(module)
    return module


REWRITES = (
    Rewrite("unsigned as signed integers", _unsigned, _no_reason, _shift, "int8 kernels"),
    Rewrite("product as a linear layer", _products, _not_of_weight, _to_linear, "int8 kernels"),
    Rewrite("clamp as hardtanh", _clamps, _open, _to_hardtanh, "fused into the layer before it"),
    Rewrite("mean that keeps its axes", _means, _not_over_space, _keep_axes, "int8 pooling"),
    Rewrite("move between integers", _moves, _not_on_grid, _keep_grid, "a quarter of the bytes"),
    Rewrite("weight in groups", _groups, _not_dynamic, _to_group_scales, "4-bit kernels"),
    Rewrite("float weight", _integer_weights, _all_integer, _to_float, "no unpacking at every call"),
    Rewrite("weight of few bits in eight", _few_bits, _dynamic_four_bits, _to_eight_bits, "int8 kernels"),
    Rewrite("dequantize for each reader", _shared, _no_reason, _part, "no cycle between parts"),
)
