"""What zeropoint knows of ATen's operators: their families, and where the weight of a weighted one is.

Placement rules name families ("conv", "add"), so that a rule holds for every overload and rank of an
operator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.fx import Node

from zeropoint.graph.edits import is_stored
from zeropoint.numerics.learned import fake_quantize_learned
from zeropoint.torch_private.operators import has_kernel

aten = torch.ops.aten


@dataclass(frozen=True)
class Weighted:
    """Where a weighted operator's arguments are, and which axis of the weight runs over output channels."""

    family: str
    input: int
    weight: int
    bias: int | None
    channel_axis: int


Clamp = Callable[..., tuple[float | None, float | None]]
"""The lower and upper limit that an operator of these arguments clamps to; None if it is open."""


@dataclass(frozen=True)
class Operator:
    """What passes and rules need to know of an operator: a row of the table, in which most columns are empty.

    ``family``: the name that rules use for it if no argument is a weight. ``weighted``: if one is. ``moves``:
    it only moves values or picks among them, so its output has the grid of its input. ``splits``: so do its
    parts, taken one by one. ``clamps``: the range that it clamps to. ``by_channel``: every output channel
    depends on the same input channel alone, in the same way, so that channels may change places.
    ``scales``: an input channel times a positive number gives the output channel times that number.
    """

    family: str | None = None
    weighted: Weighted | None = None
    moves: bool = False
    splits: bool = False
    clamps: Clamp | None = None
    by_channel: bool = False
    scales: bool = False


def _layer(family: str, input: int, weight: int, bias: int | None, channel_axis: int) -> Operator:
    return Operator(weighted=Weighted(family, input, weight, bias, channel_axis))


_MOVE = Operator(moves=True)
_SPLIT = Operator(splits=True)
_BY_CHANNEL = Operator(by_channel=True)
_POOL = Operator("avg_pool", by_channel=True, scales=True)

OPERATORS: dict[Any, Operator] = {
    aten.conv1d.default: _layer("conv1d", 0, 1, 2, 0),
    aten.conv1d.padding: _layer("conv1d", 0, 1, 2, 0),
    aten.conv2d.default: _layer("conv", 0, 1, 2, 0),
    aten.conv2d.padding: _layer("conv", 0, 1, 2, 0),
    aten.conv3d.default: _layer("conv3d", 0, 1, 2, 0),
    aten.conv3d.padding: _layer("conv3d", 0, 1, 2, 0),
    aten.conv_transpose1d.default: _layer("conv_transpose", 0, 1, 2, 1),
    aten.conv_transpose2d.input: _layer("conv_transpose", 0, 1, 2, 1),
    aten.conv_transpose3d.input: _layer("conv_transpose", 0, 1, 2, 1),
    aten.linear.default: _layer("linear", 0, 1, 2, 0),
    # With a weight a linear layer; of two activations a product.
    aten.matmul.default: Operator("product", Weighted("linear", 0, 1, None, -1)),
    aten.mm.default: _layer("linear", 0, 1, None, 1),
    aten.addmm.default: _layer("linear", 1, 2, 0, 1),
    aten.bmm.default: Operator("product"),
    aten.add.Tensor: Operator("add", scales=True),
    aten.mul.Tensor: Operator("mul"),
    aten.cat.default: Operator("cat"),
    aten.batch_norm.default: Operator("batch_norm"),
    aten.mean.dim: Operator("mean"),
    aten.avg_pool2d.default: _POOL,
    aten.adaptive_avg_pool2d.default: Operator("avg_pool", scales=True),
    aten.max_pool2d.default: Operator(moves=True, by_channel=True, scales=True),
    aten.relu.default: Operator("relu", clamps=lambda _: (0.0, None), by_channel=True, scales=True),
    aten.hardtanh.default: Operator(
        "relu", clamps=lambda _, low=-1.0, high=1.0: (low, high), by_channel=True
    ),
    aten.clamp.default: Operator("relu", clamps=lambda _, low=None, high=None: (low, high), by_channel=True),
    aten.leaky_relu.default: Operator(by_channel=True, scales=True),
    aten.hardswish.default: _BY_CHANNEL,
    aten.silu.default: _BY_CHANNEL,
    aten.gelu.default: _BY_CHANNEL,
    aten.sigmoid.default: _BY_CHANNEL,
    aten.hardsigmoid.default: _BY_CHANNEL,
    aten.elu.default: _BY_CHANNEL,
    aten.flatten.using_ints: _MOVE,
    aten.view.default: _MOVE,
    aten.reshape.default: _MOVE,
    aten.reshape_as.default: _MOVE,
    aten.view_as.default: _MOVE,
    aten.unflatten.int: _MOVE,
    aten.transpose.int: _MOVE,
    aten.permute.default: _MOVE,
    aten.squeeze.dim: _MOVE,
    aten.squeeze.dims: _MOVE,
    aten.unsqueeze.default: _MOVE,
    aten.slice.Tensor: _MOVE,
    aten.select.int: _MOVE,
    aten.expand.default: _MOVE,
    aten.contiguous.default: Operator(moves=True, scales=True),
    aten.clone.default: Operator(scales=True),
    aten.channel_shuffle.default: _MOVE,
    aten.chunk.default: _SPLIT,
    aten.split.Tensor: _SPLIT,
    aten.split_with_sizes.default: _SPLIT,
    aten.unbind.int: _SPLIT,
}
"""The table: to teach zeropoint an operator, add its row."""

SOFTMAX = frozenset({aten.softmax.int, aten._softmax.default})
BAGS = frozenset({aten.embedding_bag.default, aten.embedding_bag.padding_idx})
EMBEDDINGS = frozenset({aten.embedding.default, *BAGS})
RECURRENT = frozenset(
    getattr(getattr(aten, f"{kind}{form}"), overload)
    for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")
    for form, overload in (("", "input"), ("_cell", "default"))
)
WEIGHTED = {target: of.weighted for target, of in OPERATORS.items() if of.weighted}
CLAMPS = {target: of.clamps for target, of in OPERATORS.items() if of.clamps}
TRANSPARENT = {target for target, of in OPERATORS.items() if of.moves}
SPLITS = {target for target, of in OPERATORS.items() if of.splits}


def facts(node: Node) -> Operator:
    """The row of a node's operator; an empty one if the table has none."""
    return OPERATORS.get(node.target, _UNKNOWN)


_UNKNOWN = Operator()

FAKE_QUANTIZE_TENSOR = aten.fake_quantize_per_tensor_affine.default
FAKE_QUANTIZE_CHANNEL = aten.fake_quantize_per_channel_affine.default
# The scale and zero point are tensors, computed in the graph from the activation itself: dynamic
# quantization.
FAKE_QUANTIZE_DYNAMIC = aten.fake_quantize_per_tensor_affine.tensor_qparams
FAKE_QUANTIZE = {
    FAKE_QUANTIZE_TENSOR,
    FAKE_QUANTIZE_CHANNEL,
    FAKE_QUANTIZE_DYNAMIC,
    fake_quantize_learned,  # whose step size is a parameter to train
}
# Limits of a run-time quantizer whose input was divided by a scale for every group (``passes.group_ranges``).
GROUPED, WHOLE_ROW = (-127, 127), (-255, 255)


def ungrouped(weight: Node) -> Node:
    """The quantizer of a value that is quantized in groups, from what puts them together; else the value.

    The groups are the rows of a matrix there, and a reshape gives them the shape that the layer takes.
    """
    source: Any = weight.args[0] if weight.target in (aten.reshape.default, aten.view.default) else None
    if isinstance(source, Node) and source.target in FAKE_QUANTIZE:
        return source
    source = weight
    while isinstance(source, Node) and source.target in _AFTER_GROUPS:
        source = source.args[0]
    return source if isinstance(source, Node) and finds_groups(source) else weight


_AFTER_GROUPS = {aten.slice.Tensor, aten.view_as.default, aten.mul.Tensor}


def finds_groups(node: Node) -> bool:
    """Whether a node is a run-time quantizer with a range for every row, or every few inputs of one."""
    return node.target is FAKE_QUANTIZE_DYNAMIC and node.args[3:5] in (GROUPED, WHOLE_ROW)


def weighted(node: Node) -> Weighted | None:
    """The Weighted description of a node whose weight is a parameter of the model, else None."""
    description = WEIGHTED.get(node.target) if node.op == "call_function" else None
    if description is None:
        return None
    weight = node.args[description.weight]
    weight = ungrouped(weight) if isinstance(weight, Node) else weight
    while isinstance(weight, Node) and weight.target in FAKE_QUANTIZE:
        weight = weight.args[0]
    if not is_stored(weight):
        return None
    dimensions = cast(Node, weight).meta["val"].dim()  # a stack of matrices is none: ``targets.experts``
    return description if dimensions == 2 or (dimensions > 2 and description.family != "linear") else None


def weight_of(node: Node) -> Node:
    """The weight of a weighted node, quantized or not."""
    return cast(Node, node.args[WEIGHTED[node.target].weight])


def bias_of(node: Node, description: Weighted) -> Node | None:
    """The bias of a weighted node, or None where it has none."""
    position = description.bias
    if position is None or len(node.args) <= position:
        return None
    return cast(Node | None, node.args[position])


def short_name(operator: object) -> str:
    """An operator's name without namespace and overload: conv2d of aten.conv2d.default."""
    return str(operator).removeprefix("aten.").partition(".")[0]


def family(node: Node) -> str | None:
    """The family of a node's operator, or None where no rule is about it."""
    description = weighted(node)
    return description.family if description else facts(node).family


# ATen's fake-quantize kernels come without the shape rule that re-exporting a graph needs.
_shape_rules = torch.library.Library("aten", "IMPL")


def _same_shape_and_mask(tensor: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(tensor), torch.empty_like(tensor, dtype=torch.bool)


for _name in (
    "fake_quantize_per_tensor_affine_cachemask",
    "fake_quantize_per_channel_affine_cachemask",
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
):
    if not has_kernel(f"aten::{_name}", "Meta"):
        _shape_rules.impl(_name, _same_shape_and_mask, "Meta")
