"""Fold batch norms into the convolution or linear layer before them.

Jacob et al. 2018, section 3.2, eq. 14: ``w_fold = gamma * w / sqrt(variance + epsilon)``.
"""

import dataclasses
from typing import cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.moves import axis_before
from zeropoint.graph.operators import TRANSPARENT, aten, bias_of, weighted
from zeropoint.graph.program import Program
from zeropoint.numerics.scheme import per_channel_shape
from zeropoint.targets.recipe import matches

SHAPED_AS = {aten.reshape_as.default, aten.view_as.default}


def fold_batch_norms(program: Program, no_fuse: tuple[str, ...] = ()) -> Program:
    """The Program with every foldable batch norm folded, but those of modules matching ``no_fuse``.

    Weights are folded into new tensors: those of the given Program, which may be the user's own, stay as they
    are. The arithmetic is done in float64, so that folding costs no accuracy.
    """
    module = fx.copy(program.module)
    for node in list(module.graph.nodes):
        if node.target is aten.batch_norm.default and not node.args[5]:
            layer = _layer_before(node)
            if (
                layer is not None
                and not any(matches(fx.module_name(part), no_fuse) for part in (node, layer))
                and all(part is None or fx.is_stored(part) for part in node.args[1:5])
            ):
                _fold(module, layer, node)
    fx.remove_unused(module)
    return dataclasses.replace(program, module=module)


def _layer_before(norm: Node) -> Node | None:
    """The layer with a place for a bias whose output channels a batch norm scales, and nothing else reads.

    Between them values may be moved, as where the tokens of all items become the items of one batch.
    """
    value, axis = cast(Node, norm.args[0]), 1
    while _is_read_once(value):
        description = weighted(value)
        if description is not None:
            weight = cast(Node, value.args[description.weight]).meta["val"]
            behind = 0 if description.family == "linear" else weight.dim() - 2
            is_foldable = description.bias is not None and not value.kwargs
            return value if is_foldable and axis == value.meta["val"].dim() - 1 - behind else None
        before = axis_before(value, axis) if value.target in TRANSPARENT else None
        if before is None:
            return None
        value, axis = cast(Node, value.args[0]), before
    return None


def _is_read_once(value: Node) -> bool:
    """Whether one operator alone reads the values; of others that take it, only its shape counts."""
    readers = [user for user in value.users if not (user.target in SHAPED_AS and user.args[0] is not value)]
    return len([user for user in readers if user.target is not aten.sym_size.int]) == 1


def _fold(module: GraphModule, layer: Node, norm: Node) -> None:
    description = weighted(layer)
    assert description is not None
    assert description.bias is not None
    _, gamma, beta, mean, variance, *_, epsilon, _ = norm.args
    weight_node = cast(Node, layer.args[description.weight])
    weight = _value(module, weight_node)
    mean_value, variance_value = (_value(module, part) for part in (mean, variance))
    factor = torch.rsqrt(variance_value + cast(float, epsilon))
    if gamma is not None:
        factor = factor * _value(module, gamma)
    bias_node = bias_of(layer, description)
    bias = torch.zeros_like(mean_value) if bias_node is None else _value(module, bias_node)
    bias = (bias - mean_value) * factor
    if beta is not None:
        bias = bias + _value(module, beta)
    # The weight of a transposed convolution is (inputs, outputs / groups, ...), with the groups along axis 0.
    if description.family == "conv_transpose":
        groups = factor.numel() // weight.shape[1]
        by_group = factor.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1)
        folded = weight * by_group.reshape(weight.shape[0], weight.shape[1], *[1] * (weight.dim() - 2))
    else:
        folded = weight * factor.reshape(per_channel_shape(factor, weight.dim(), description.channel_axis))
    name = str(weight_node.target)
    bias_name = str(bias_node.target) if isinstance(bias_node, Node) else f"{name}__bias"
    shared = len(weight_node.users) > 1 or (isinstance(bias_node, Node) and len(bias_node.users) > 1)
    suffix = f"__{layer.name}" if shared else ""  # another layer keeps the unfolded one
    with module.graph.inserting_before(layer):
        for position, leaf, value in (
            (description.weight, f"{name}{suffix}", folded.float()),
            (description.bias, f"{bias_name}{suffix}", bias.float()),
        ):
            node = module.graph.get_attr(fx.set_tensor(module, leaf, value, trainable=True))
            node.meta["val"] = value
            fx.replace_argument(layer, position, node)
    norm.replace_all_uses_with(cast(Node, norm.args[0]))


def _value(module: GraphModule, node: object) -> Tensor:
    """The float64 tensor of a ``get_attr`` node."""
    return fx.tensor_of(module, cast(Node, node)).double()
