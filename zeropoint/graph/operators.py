"""What zeropoint knows of ATen's operators: their families, and where the weight of a weighted one is.

Placement rules name families ("conv", "add"), so that a rule holds for every overload and rank of an
operator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.fx import Node

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


WEIGHTED: dict[Any, Weighted] = {
    aten.conv1d.default: Weighted("conv1d", 0, 1, 2, 0),
    aten.conv2d.default: Weighted("conv", 0, 1, 2, 0),
    aten.conv3d.default: Weighted("conv", 0, 1, 2, 0),
    aten.conv2d.padding: Weighted("conv", 0, 1, 2, 0),
    aten.conv1d.padding: Weighted("conv1d", 0, 1, 2, 0),
    aten.conv_transpose1d.default: Weighted("conv_transpose", 0, 1, 2, 1),
    aten.conv_transpose2d.input: Weighted("conv_transpose", 0, 1, 2, 1),
    aten.linear.default: Weighted("linear", 0, 1, 2, 0),
    aten.matmul.default: Weighted("linear", 0, 1, None, -1),
    aten.mm.default: Weighted("linear", 0, 1, None, 1),
    aten.addmm.default: Weighted("linear", 1, 2, 0, 1),
}

SOFTMAX = frozenset({aten.softmax.int, aten._softmax.default})
EMBEDDINGS = frozenset({aten.embedding.default})
RECURRENT = frozenset({aten.lstm.input, aten.gru.input})

FAMILIES: dict[Any, str] = {
    aten.add.Tensor: "add",
    aten.cat.default: "cat",
    aten.adaptive_avg_pool2d.default: "avg_pool",
    aten.avg_pool2d.default: "avg_pool",
    aten.mean.dim: "mean",
    aten.matmul.default: "product",  # of two activations: that with a weight is "linear"
    aten.bmm.default: "product",
    aten.batch_norm.default: "batch_norm",
    aten.relu.default: "relu",
    aten.hardtanh.default: "relu",
    aten.clamp.default: "relu",
}

# The two ends that a clamping operator of these arguments clamps to, None where it is open.
CLAMPS: dict[Any, Callable[..., tuple[float | None, float | None]]] = {
    aten.relu.default: lambda _: (0.0, None),
    aten.hardtanh.default: lambda _, low=-1.0, high=1.0: (low, high),
    aten.clamp.default: lambda _, low=None, high=None: (low, high),
}

# Operators that only move values or pick among them: quantized in, quantized out, on the same grid.
TRANSPARENT = {
    aten.max_pool2d.default,
    aten.flatten.using_ints,
    aten.view.default,
    aten.reshape.default,
    aten.unflatten.int,
    aten.transpose.int,
    aten.permute.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.expand.default,
    aten.contiguous.default,
    aten.channel_shuffle.default,
}

# Those whose parts, taken one by one, are moves like these.
SPLITS = {aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int}

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


def ungrouped(weight: Node) -> Node:
    """The quantizer of a weight that is quantized in groups, from the reshape behind it; else the weight.

    The groups are the rows of a matrix there, and the reshape gives them the shape that the layer takes.
    """
    source = weight.args[0] if weight.target in (aten.reshape.default, aten.view.default) else None
    return source if isinstance(source, Node) and source.target in FAKE_QUANTIZE else weight


def weighted(node: Node) -> Weighted | None:
    """The Weighted description of a node whose weight is a parameter of the model, else None."""
    description = WEIGHTED.get(node.target) if node.op == "call_function" else None
    if description is None:
        return None
    weight = node.args[description.weight]
    weight = ungrouped(weight) if isinstance(weight, Node) else weight
    while isinstance(weight, Node) and weight.target in FAKE_QUANTIZE:
        weight = weight.args[0]
    is_weight = isinstance(weight, Node) and weight.op == "get_attr" and weight.meta["val"].dim() > 1
    return description if is_weight else None


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
    return description.family if description else FAMILIES.get(node.target)


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
