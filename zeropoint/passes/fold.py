"""Fold batch norms into the convolution or linear layer before them.

Jacob et al. 2018, section 3.2, eq. 14: ``w_fold = gamma * w / sqrt(variance + epsilon)``.
"""

import dataclasses
from typing import cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.operators import aten, bias_of, weighted
from zeropoint.graph.program import Program
from zeropoint.numerics.scheme import per_channel_shape
from zeropoint.targets.recipe import matches


def fold_batch_norms(program: Program, no_fuse: tuple[str, ...] = ()) -> Program:
    """The Program with every foldable batch norm folded, but those of modules matching ``no_fuse``.

    Weights are folded into new tensors: those of the given Program, which may be the user's own, stay as they
    are. The arithmetic is done in float64, so that folding costs no accuracy.
    """
    module = fx.copy(program.module)
    for node in list(module.graph.nodes):
        if node.target is aten.batch_norm.default and not node.args[5]:
            before = node.args[0]
            unfused = any(matches(fx.module_name(part), no_fuse) for part in (node, before))
            if (
                _is_foldable(before)
                and len(before.users) == 1
                and not unfused
                and all(part is None or fx.is_stored(part) for part in node.args[1:5])
            ):
                _fold(module, before, node)
    fx.remove_unused(module)
    return dataclasses.replace(program, module=module)


def _is_foldable(layer: Node) -> bool:
    """Whether a layer has a place for a bias, and its output channels along axis 1 as a batch norm has."""
    description = weighted(layer)
    if description is None or description.bias is None or layer.kwargs:
        return False
    return description.family != "linear" or layer.meta["val"].dim() == 2


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
    norm.replace_all_uses_with(layer)


def _value(module: GraphModule, node: object) -> Tensor:
    """The float64 tensor of a ``get_attr`` node."""
    return fx.tensor_of(module, cast(Node, node)).double()
