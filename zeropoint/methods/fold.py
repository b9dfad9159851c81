"""Fold batch norms into the convolution or linear layer before them.

Jacob et al. 2018, section 3.2, eq. 14: ``w_fold = gamma * w / sqrt(variance + epsilon)``.
"""

import dataclasses
from typing import cast

import torch
from torch.fx import GraphModule, Node

from zeropoint import graph as fx
from zeropoint.operators import aten, weighted
from zeropoint.options import matches
from zeropoint.program import Program


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
            if weighted(before) and len(before.users) == 1 and not unfused and _is_constant(node):
                _fold(module, before, node)
    fx.remove_unused(module)
    return dataclasses.replace(program, module=module)


def _is_constant(norm: Node) -> bool:
    return all(isinstance(part, Node) and part.op == "get_attr" for part in norm.args[3:5])


def _fold(module: GraphModule, layer: Node, norm: Node) -> None:
    description = weighted(layer)
    assert description is not None and description.bias is not None
    _, gamma, beta, mean, variance, *_, epsilon, _ = norm.args
    weight_node = cast(Node, layer.args[description.weight])
    weight = fx.tensor_of(module, weight_node).double()
    mean_value, variance_value = (fx.tensor_of(module, cast(Node, part)).double() for part in (mean, variance))
    factor = torch.rsqrt(variance_value + cast(float, epsilon))
    if gamma is not None:
        factor = factor * fx.tensor_of(module, cast(Node, gamma)).double()
    bias_node = layer.args[description.bias] if len(layer.args) > description.bias else None
    bias = torch.zeros_like(mean_value) if bias_node is None else fx.tensor_of(module, cast(Node, bias_node)).double()
    bias = (bias - mean_value) * factor
    if beta is not None:
        bias = bias + fx.tensor_of(module, cast(Node, beta)).double()
    if description.family == "conv_transpose":  # weight is (inputs, outputs / groups, ...): groups lie along axis 0
        groups = factor.numel() // weight.shape[1]
        by_group = factor.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1).flatten(0, 1)
        folded = weight * by_group.reshape(weight.shape[0], weight.shape[1], *[1] * (weight.dim() - 2))
    else:
        folded = weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
    name = str(weight_node.target)
    shared = len(weight_node.users) > 1 or (isinstance(bias_node, Node) and len(bias_node.users) > 1)
    suffix = f"_{layer.name}" if shared else ""  # another layer keeps the unfolded one
    with module.graph.inserting_before(layer):
        for position, leaf, value in (
            (description.weight, f"{name}{suffix}", folded.float()),
            (description.bias, f"{name.rpartition('.')[0]}.bias{suffix}".lstrip("."), bias.float()),
        ):
            node = module.graph.get_attr(fx.set_tensor(module, leaf, value, trainable=True))
            node.meta["val"] = value
            fx.replace_argument(layer, position, node)
    norm.replace_all_uses_with(layer)
