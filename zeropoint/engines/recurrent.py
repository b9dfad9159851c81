"""Recurrent layers for engines with kernels over whole sequences: one operator for each layer.

ATen's operators hold several layers, and exporters unroll them: the graph then grows with the length of the
sequence. Here a layer of one or two directions is one operator, which is only ever lowered.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.exported import complete_shapes
from zeropoint.graph.operators import aten
from zeropoint.graph.quantizers import Quantizer, insert_weight, quantizers

# An operator is of one layer of D directions, G gates, and states of size H, over T steps. It takes the input
# (T, N, I), the states (D, N, H), matrices for the input (D * G * H, I) and for the state (D * G * H, H), and
# the biases of both (D, 2 * G * H), and gives the output (T, N, D * H).
_library = torch.library.Library("zeropoint", "FRAGMENT")
_TENSORS = "Tensor inputs, Tensor hiddens, Tensor biases"
for _kind, _states in {"lstm": "h, Tensor c", "gru": "h", "rnn_tanh": "h", "rnn_relu": "h"}.items():
    _library.define(f"{_kind}_layer(Tensor x, Tensor {_states}, {_TENSORS}) -> Tensor")
    torch.library.register_fake(
        f"zeropoint::{_kind}_layer",
        lambda x, h, *_: x.new_empty([x.shape[0], x.shape[1], h.shape[0] * h.shape[2]]),
        lib=_library,
    )
_library.define("last_cell(Tensor output, Tensor c) -> Tensor")  # of the LSTM that gave the output
torch.library.register_fake("zeropoint::last_cell", lambda _, c: torch.empty_like(c), lib=_library)

own = torch.ops.zeropoint
LAYERS: dict[Any, Any] = {
    aten.lstm.input: own.lstm_layer.default,
    aten.gru.input: own.gru_layer.default,
    aten.rnn_tanh.input: own.rnn_tanh_layer.default,
    aten.rnn_relu.input: own.rnn_relu_layer.default,
}
Gates = dict[Any, tuple[int, ...]]
"""By ATen's operator, the places of an engine's gates among PyTorch's.

PyTorch's order is input, forget, cell, output for an LSTM, and reset, update, new for a GRU.
"""


def to_layers(module: GraphModule, gates: Gates) -> None:
    """Puts operators of this file in the place of ATen's, in place; ``gates`` are in the engine's order."""
    found = [node for node in module.graph.nodes if node.target in LAYERS]
    for node in found:
        with module.graph.inserting_before(node):
            results = _written(_Recurrent(module, node, gates.get(node.target, (0,))))
        for user in list(node.users):
            user.replace_all_uses_with(results[cast(int, user.args[1])])
            module.graph.erase_node(user)
        module.graph.erase_node(node)
    if found:
        fx.remove_unused(module)
        complete_shapes(module)


@dataclass(frozen=True)
class _Recurrent:
    """One of ATen's operators, and how nodes are written in its place."""

    module: GraphModule
    node: Node
    gates: tuple[int, ...]

    def call(self, target: Any, *arguments: Any) -> Node:
        """A call at the graph's insertion point."""
        made = self.module.graph.call_function(target, arguments)
        made.meta = {"nn_module_stack": self.node.meta.get("nn_module_stack", {})}
        return made

    def gathered(self, part: Node) -> Node:
        """A matrix or a bias with its rows in the engine's order of gates."""
        order = self.order(part.meta["val"].shape[0])
        if len(self.gates) == 1:
            return part
        name = fx.set_tensor(self.module, f"{self.node.name}_order", order)
        return self.call(aten.index_select.default, part, 0, self.module.graph.get_attr(name))

    def order(self, rows: int) -> Tensor:
        """Where the rows in the engine's order of gates are among PyTorch's."""
        return torch.arange(rows).reshape(len(self.gates), -1)[list(self.gates)].flatten()


def _written(of: _Recurrent) -> list[Node]:
    """The output and the last states, as ATen's operator gives them."""
    arguments: Any = of.node.args
    x, states, parameters, has_biases, depth, _, _, two_ways, batch_first = arguments
    states = list(states) if isinstance(states, Sequence) else [states]
    ways, size = 1 + two_ways, len(parameters) // (depth * (1 + two_ways))
    last: list[list[Node]] = [[] for _ in states]
    x = of.call(aten.transpose.int, x, 0, 1) if batch_first else x
    for first in range(0, depth * ways, ways):
        parts = [parameters[way * size : (way + 1) * size] for way in range(first, first + ways)]
        before = [of.call(aten.slice.Tensor, state, 0, first, first + ways) for state in states]
        x, *after = (_projected if size % 2 else _layer)(of, x, before, parts, has_biases)
        for each, state in zip(last, after, strict=True):
            each.append(state)
    output = of.call(aten.transpose.int, x, 0, 1) if batch_first else x
    return [output, *(of.call(aten.cat.default, each) for each in last)]


Parts = list[Sequence[Node]]
"""The parameters of a layer for each direction: two matrices, two biases if it has them, and a projection."""


def _layer(of: _Recurrent, x: Node, before: list[Node], parts: Parts, has_biases: bool) -> list[Node]:
    """The output and the last states of a layer."""
    inputs, hiddens = (_stacked(of, [part[i] for part in parts]) for i in (0, 1))
    made, outputs, cells = _run(of, x, before, (inputs, hiddens), parts, has_biases)
    return [made, _ends(of, outputs), *cells]


def _projected(of: _Recurrent, x: Node, before: list[Node], parts: Parts, has_biases: bool) -> list[Node]:
    """The output and the last states of an LSTM whose output is projected, which no engine has.

    Sak et al. 2014 (arXiv 1402.1128), eq. 1 to 7: with the projection P and m = o * tanh(c) the gates take
    R (P m) = (R P) m, an LSTM with the state m. The first step takes R h: its h is a further input, which is
    0 at all other steps.
    """
    step = of.call(aten.slice.Tensor, of.call(aten.slice.Tensor, x, 2, 0, 1), 0, 1)  # without the first step
    rest = of.call(aten.zeros_like.default, step)
    inputs, hiddens, columns = [], [], [x]
    for way, part in enumerate(parts):
        matrix = _stacked(of, [part[1]])
        hiddens.append(of.call(aten.mm.default, matrix, part[-1]))
        none = of.call(aten.zeros_like.default, matrix)
        others = [matrix if way == other else none for other in range(len(parts))]
        inputs.append(of.call(aten.cat.default, [_stacked(of, [part[0]]), *others], 1))
        first = of.call(aten.slice.Tensor, before[0], 0, way, way + 1)
        zeros = of.call(aten.expand.default, rest, [-1, -1, part[1].meta["val"].shape[1]])
        columns.append(of.call(aten.cat.default, [first, zeros] if way == 0 else [zeros, first]))
    wide = of.call(aten.cat.default, columns, 2)
    start = [of.call(aten.zeros_like.default, before[1]), before[1]]
    matrices = (of.call(aten.cat.default, inputs), of.call(aten.cat.default, hiddens))
    _, outputs, cells = _run(of, wide, start, matrices, parts, has_biases)
    outputs = [
        of.call(aten.linear.default, *pair[:1], pair[1][-1]) for pair in zip(outputs, parts, strict=True)
    ]
    return [of.call(aten.cat.default, outputs, 2), _ends(of, outputs), *cells]


def _run(
    of: _Recurrent,
    x: Node,
    before: list[Node],
    matrices: tuple[Node, Node],
    parts: Parts,
    has_biases: bool,
) -> tuple[Node, list[Node], list[Node]]:
    """The output of the layer's operator, whole and for each direction, and the last cells of an LSTM."""
    made = of.call(LAYERS[of.node.target], x, *before, *matrices, _biases(of, parts, has_biases))
    size = parts[0][0].meta["val"].shape[0] // len(of.gates)
    outputs = [of.call(aten.slice.Tensor, made, 2, i * size, (i + 1) * size) for i in range(len(parts))]
    return made, outputs, [of.call(own.last_cell.default, made, one) for one in before[1:]]


def _ends(of: _Recurrent, outputs: list[Node]) -> Node:
    """The last states: the first direction ends at the last step, the second one at the first."""
    ends = [of.call(aten.select.int, one, 0, end) for one, end in zip(outputs, (-1, 0), strict=False)]
    return of.call(aten.stack.default, ends)


def _biases(of: _Recurrent, parts: Parts, has_biases: bool) -> Node:
    if has_biases:
        both = [of.call(aten.cat.default, [of.gathered(one) for one in part[2:4]]) for part in parts]
        return of.call(aten.stack.default, both)
    zeros = torch.zeros(len(parts), 2 * parts[0][0].meta["val"].shape[0])
    return of.module.graph.get_attr(fx.set_tensor(of.module, f"{of.node.name}_no_biases", zeros))


def _stacked(of: _Recurrent, matrices: list[Node]) -> Node:
    """The matrices of the directions below each other: those in integers as one with a scale for each row."""
    known = {one.node: one for one in quantizers(of.module) if one.is_weight}
    if not all(one in known for one in matrices):
        return of.call(aten.cat.default, [of.gathered(one) for one in matrices])
    return _in_integers(of, [known[one] for one in matrices])


def _in_integers(of: _Recurrent, parts: list[Quantizer]) -> Node:
    weights, scales, zero_points = [], [], []
    for part in parts:
        weight = fx.tensor_of(of.module, part.source)
        order = of.order(len(weight))
        weights.append(weight[order])
        scales.append(part.scale.expand(len(weight))[order])
        zero_points.append(part.zero_point.expand(len(weight))[order])
    whole = torch.cat(weights)
    name = fx.set_tensor(of.module, f"{parts[0].source.target}_stacked", whole, trainable=True)
    source = of.module.graph.get_attr(name)
    source.meta["val"] = whole
    scheme = dataclasses.replace(parts[0].scheme, granularity="per-channel")
    return insert_weight(of.module, source, torch.cat(scales), torch.cat(zero_points), scheme, 0)
