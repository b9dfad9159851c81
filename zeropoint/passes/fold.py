"""Fold what is affine in each channel into the convolution or linear layer before it.

A batch norm (Jacob et al. 2018, section 3.2, eq. 14: ``w_fold = gamma * w / sqrt(variance + epsilon)``), and
a product, quotient, sum or difference with constants, such as the scales at the end of the blocks of CaiT and
ConvNeXt (Touvron et al. 2021, "Going deeper with image transformers", arXiv 2103.17239, section 2).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.moves import axis_before
from zeropoint.graph.operators import TRANSPARENT, WEIGHTED, Weighted, aten, bias_of, weight_of, weighted
from zeropoint.graph.program import Program
from zeropoint.numerics.scheme import per_channel_shape
from zeropoint.targets.recipe import matches

SHAPED_AS = {aten.reshape_as.default, aten.view_as.default}


@dataclasses.dataclass(frozen=True)
class _Affine:
    """``factor * value + offset``, both of one element or (channels,), float64.

    ``axis`` is that of the channels of ``value``, None where all have the same factor and offset.
    """

    value: Node
    axis: int | None
    factor: Tensor
    offset: Tensor


def fold_affine(program: Program, no_fuse: tuple[str, ...] = ()) -> Program:
    """The Program with all folded that can be, but for what modules matching ``no_fuse`` do.

    Weights are folded into new tensors: those of the given Program, which may be the user's own, stay as they
    are. The arithmetic is done in float64, so that folding costs no accuracy.
    """
    module = fx.copy(program.module)
    fold_into_layers(module, lambda node: matches(fx.module_name(node), no_fuse))
    return dataclasses.replace(program, module=module)


def fold_into_layers(module: GraphModule, is_kept: Callable[[Node], bool]) -> list[tuple[Node, Node]]:
    """Folds in place all but what ``is_kept``, or what is behind a layer that is.

    Gives pairs of a layer and what was folded into it.
    """
    found: list[tuple[Node, Node]] = []
    for node in list(module.graph.nodes):
        affine = _affine(module, node)
        layer = _layer_before(affine) if affine else None
        if affine is None or layer is None or is_kept(node) or is_kept(layer):
            continue
        # A weight that others read has to be stored once more, which a batch norm alone is worth.
        if node.target is aten.batch_norm.default or fx.is_stored(weight_of(layer), alone=True):
            _fold(module, layer, affine)
            node.replace_all_uses_with(affine.value)
            module.graph.erase_node(node)
            found.append((layer, node))
    fx.remove_unused(module)
    return found


def _affine(module: GraphModule, node: Node) -> _Affine | None:
    """What a node computes, if that is affine in each channel."""
    if node.target is aten.batch_norm.default and not node.args[5]:
        return _of_batch_norm(module, node)
    if node.target in _OF_CONSTANT and not node.kwargs and fx.is_float(node):
        return _of_constant(module, node)
    return None


def _of_batch_norm(module: GraphModule, norm: Node) -> _Affine | None:
    if not all(part is None or fx.is_stored(part) for part in norm.args[1:5]):
        return None
    value, gamma, beta, mean, variance, *_, epsilon, _ = norm.args
    factor = torch.rsqrt(_value(module, variance) + cast(float, epsilon))
    if gamma is not None:
        factor = factor * _value(module, gamma)
    offset = -_value(module, mean) * factor
    if beta is not None:
        offset = offset + _value(module, beta)
    return _Affine(cast(Node, value), 1, factor, offset)


def _of_constant(module: GraphModule, node: Node) -> _Affine | None:
    value, other = node.args[:2]
    if fx.is_stored(value) and node.target in _COMMUTES:
        value, other = other, value
    if not isinstance(value, Node) or fx.is_stored(value):
        return None
    if not (isinstance(other, float | int) or fx.is_stored(other)):
        return None
    sizes = list(other.meta["val"].shape) if isinstance(other, Node) else []
    before, after = (list(map(str, one.meta["val"].shape)) for one in (value, node))
    wide = {axis: str(size) for axis, size in enumerate(sizes, len(after) - len(sizes)) if size != 1}
    if before != after or len(wide) > 1 or any(after[axis] != size for axis, size in wide.items()):
        return None
    constant = _value(module, other) if isinstance(other, Node) else torch.tensor(other, dtype=torch.float64)
    factor, offset = _OF_CONSTANT[node.target](constant.flatten())
    if not (factor.isfinite().all() and offset.isfinite().all()):
        return None
    return _Affine(value, next(iter(wide), None), factor, offset)


_OF_CONSTANT: dict[Any, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    aten.mul.Tensor: lambda constant: (constant, torch.zeros_like(constant)),
    aten.div.Tensor: lambda constant: (1 / constant, torch.zeros_like(constant)),
    aten.add.Tensor: lambda constant: (torch.ones_like(constant), constant),
    aten.sub.Tensor: lambda constant: (torch.ones_like(constant), -constant),
}
_COMMUTES = {aten.mul.Tensor, aten.add.Tensor}


def _layer_before(affine: _Affine) -> Node | None:
    """The layer whose output channels it changes, and nothing else reads.

    Between them values may be moved, as where the tokens of all items become the items of one batch.
    """
    value, axis = affine.value, affine.axis
    while _is_read_once(value):
        description = weighted(value)
        if description is not None:
            is_theirs = axis is None or axis == _channel_axis(value)
            has_place = description.bias is not None or not affine.offset.any()
            return value if is_theirs and has_place and not value.kwargs else None
        if value.target not in TRANSPARENT:
            return None
        before = None if axis is None else axis_before(value, axis)
        if axis is not None and before is None:
            return None
        value, axis = cast(Node, value.args[0]), before
    return None


def _is_read_once(value: Node) -> bool:
    """Whether one operator alone reads the values; of others that take it, only its shape counts."""
    readers = [user for user in value.users if not (user.target in SHAPED_AS and user.args[0] is not value)]
    return len([user for user in readers if user.target is not aten.sym_size.int]) == 1


def _fold(module: GraphModule, layer: Node, affine: _Affine) -> None:
    description = WEIGHTED[layer.target]
    channels = layer.meta["val"].shape[_channel_axis(layer)]
    factor, offset = affine.factor.expand(channels), affine.offset.expand(channels)
    weight_node, bias_node = weight_of(layer), bias_of(layer, description)
    name = str(weight_node.target)
    shared = len(weight_node.users) > 1 or (bias_node is not None and len(bias_node.users) > 1)
    suffix = f"__{layer.name}" if shared else ""  # another layer keeps the unfolded one
    tensors = [(description.weight, name, _scaled(_value(module, weight_node), factor, description))]
    if bias_node is not None:
        bias = _value(module, bias_node) * factor + offset
        tensors.append((cast(int, description.bias), str(bias_node.target), bias))
    elif offset.any():
        tensors.append((cast(int, description.bias), f"{name}__bias", offset))
    with module.graph.inserting_before(layer):
        for position, leaf, value in tensors:
            stored = fx.set_tensor(module, f"{leaf}{suffix}", value.float(), trainable=True)
            node = module.graph.get_attr(stored)
            node.meta["val"] = fx.tensor_of(module, node)
            fx.replace_argument(layer, position, node)


def _scaled(weight: Tensor, factor: Tensor, description: Weighted) -> Tensor:
    # The weight of a transposed convolution is (inputs, outputs / groups, ...), with the groups along axis 0.
    if description.family == "conv_transpose":
        groups = factor.numel() // weight.shape[1]
        by_group = factor.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1)
        return weight * by_group.reshape(weight.shape[0], weight.shape[1], *[1] * (weight.dim() - 2))
    return weight * factor.reshape(per_channel_shape(factor, weight.dim(), description.channel_axis))


def _channel_axis(layer: Node) -> int:
    """The axis of a layer's output that its channels lie along."""
    behind = 0 if WEIGHTED[layer.target].family == "linear" else int(weight_of(layer).meta["val"].dim()) - 2
    return int(layer.meta["val"].dim()) - 1 - behind


def _value(module: GraphModule, node: object) -> Tensor:
    """The float64 tensor of a ``get_attr`` node."""
    return fx.tensor_of(module, cast(Node, node)).double()
