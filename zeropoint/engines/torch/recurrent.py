"""Recurrent layers in compiled packages: PyTorch's own kernels, which the compiler would unroll step by step.

A package calls them by operators of zeropoint's, registered when this file is imported. Integer weights stay
integers in the package, and are unpacked at every call.
"""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from zeropoint.graph import edits as fx
from zeropoint.graph.operators import aten
from zeropoint.torch_private.operators import signature
from zeropoint.torch_private.pairs import pairs
from zeropoint.torch_private.recurrent import shapes

_library = torch.library.Library("zeropoint", "FRAGMENT")
_OWN: dict[Any, Any] = {}


def keep_whole(module: GraphModule) -> GraphModule:
    """Has a graph call recurrent layers by operators that the compiler leaves as they are, in place."""
    for node in [node for node in module.graph.nodes if node.target in _OWN]:
        x, state, parameters, *settings = node.args
        integers = [one for one in parameters if one.target is pairs.dequantize_per_channel.default]
        stored = [one.args[0] if one in integers else one for one in parameters]
        scales, zero_points = ([one.args[i] for one in integers] for i in (1, 2))
        node.target = _OWN[node.target]
        node.args = (x, state, stored, scales, zero_points, *settings)
    fx.remove_unused(module)
    return module


def _register(kind: str) -> None:
    """Registers ATen's operator with the scales and zero points of the parameters that are integers."""
    whole = getattr(aten, kind).input
    given, _, results = str(signature(whole)).partition("(")[2].partition(") -> ")
    given = given.replace("Tensor[] params", "Tensor[] params, Tensor[] scales, Tensor[] zero_points")
    _library.define(f"{kind}({given}) -> {results}")

    def run(
        x: Tensor,
        state: Any,
        parameters: list[Tensor],
        scales: list[Tensor],
        zeros: list[Tensor],
        *settings: Any,
    ) -> Any:
        grids = iter(zip(scales, zeros, strict=True))
        floats = [one if one.is_floating_point() else _unpacked(one, *next(grids)) for one in parameters]
        # A package reads them as they are laid out in ``empty``; with the batch first they are turned here.
        return tuple(one.contiguous() for one in whole(x, state, floats, *settings))

    def empty(x: Tensor, state: Any, parameters: list[Tensor], *rest: Any) -> Any:
        return tuple(one.new_empty(one.shape) for one in shapes(x, state, parameters, *rest[2:]))

    _library.impl(kind, run, "CPU")
    torch.library.register_fake(f"zeropoint::{kind}", empty, lib=_library)
    _OWN[whole] = getattr(torch.ops.zeropoint, kind).default


def _unpacked(integers: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return (integers - zero_point.unsqueeze(1)) * scale.unsqueeze(1)


for _kind in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
    _register(_kind)
