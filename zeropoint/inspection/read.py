"""Inspection: what is in a Program, layer by layer.

Everything is read from the graph: a quantizer is a node in it, and what stayed float is what has none.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.errors import InputError
from zeropoint.graph import edits as fx
from zeropoint.graph import quantizers as quantizers_of
from zeropoint.graph.exported import complete_shapes, has_branches
from zeropoint.graph.macs import multiply_accumulates
from zeropoint.graph.operators import (
    CLAMPS,
    FAKE_QUANTIZE,
    FAKE_QUANTIZE_DYNAMIC,
    SPLITS,
    TRANSPARENT,
    Weighted,
    aten,
    bias_of,
    family,
    finds_groups,
    short_name,
    ungrouped,
    weighted,
)
from zeropoint.graph.program import Program, parameter_bytes
from zeropoint.inspection.facts import (
    Bias,
    Fused,
    Grid,
    Input,
    Inspection,
    Key,
    Layer,
    Weight,
)
from zeropoint.inspection.reference import Reference, node_keys
from zeropoint.inspection.tensors import bias_in_units, float_weight, grid_of, integer_weight, real_values
from zeropoint.passes.integer_bias import bias_units
from zeropoint.targets.rules import OPTIONAL

REORDERED = ("static", "static-best", "qat")  # methods that put channels in another order for shuffles
FLOAT = {"fp32": "the Program is float", "bf16": "bfloat16 has no integers"}
NO_RULE = {
    "dynamic": "dynamic quantization is for linear and recurrent layers",
    "weight-only": "weight-only quantizes those of convolutions, linear and recurrent layers",
}
VALUES, IN_FULL = 9, 27  # of a tensor that are listed, and of a layer that is shown in full
# What only moves, copies or makes constants: nothing is computed there.
_MOVES = TRANSPARENT | SPLITS | {aten._to_copy.default, aten.clone.default, aten.index_select.default}
_NO_LAYERS = _MOVES | FAKE_QUANTIZE


def inspect(program: Program, reference: Program | None = None, *, values: int = VALUES) -> Inspection:
    """What is in ``program``; ``reference`` is the float Program that it was made from.

    With a ``reference``, integer weights and biases are shown with the float ones that they come from (batch
    norms folded), and folded layers are named. Without it they are still shown if the Program was not saved
    and its weights were only rounded; a saved file holds no float weights. ``values``: how many values of
    each tensor are listed.

    Raises InputError for a ``reference`` that is quantized.

    >>> inspection = zp.inspect(quantized, program)
    >>> inspection.layers[0].name, inspection.layers[0].weight_bits, inspection.layers[0].state
    ('0', 8, 'integer')
    """
    if reference is not None and reference.method != "fp32":
        raise InputError(f"the reference is {reference.method}; give the float Program")
    return _Reader(program, reference, values).read()


class _Reader:
    """One Program as it is read: its graph with shapes, its quantizers, and the float weights beside."""

    def __init__(self, program: Program, reference: Program | None, values: int) -> None:
        self.program, self.values = program, values
        self.module = fx.copy(program.module)
        if not has_branches(self.module):
            complete_shapes(self.module)
        self.by_node = {quantizer.node: quantizer for quantizer in quantizers_of.quantizers(self.module)}
        self.at_run_time = _range_arithmetic(self.module)
        self.macs = multiply_accumulates(program)
        self.refusals: dict[str, list[str | None]] = {}
        for decision in program.decisions:
            if decision.rule not in OPTIONAL:
                self.refusals.setdefault(decision.node, []).append(decision.reason)
        self.knows_own = False
        nodes = [node for node in self.module.graph.nodes if self.computes(node)]
        self.reference = (
            None if reference is None else Reference(reference, nodes, program.method in REORDERED)
        )
        clips = {self.clip_after(node) for node in nodes}
        self.nodes = [node for node in nodes if node not in clips]

    def computes(self, node: Node) -> bool:
        """Whether an operator makes new float values of others: no move, no quantizer, no constant."""
        if node.op != "call_function" or node.target in _NO_LAYERS or node in self.at_run_time:
            return False
        first = _first(node)
        is_float = isinstance(first, Tensor) and first.is_floating_point()
        is_part = getattr(node.target, "__name__", "") == "getitem"
        read = [part for part in node.all_input_nodes if _is_computed(part)]
        has_values = any(fx.is_float(part) for part in read) or len(read) < len(node.all_input_nodes)
        return is_float and not is_part and bool(read) and has_values

    def clip_after(self, node: Node) -> Node | None:
        """The ReLU or clip that alone reads a node, and that quantizers alone read."""
        users = list(node.users)
        if len(users) != 1 or users[0].target not in CLAMPS or node.target in CLAMPS:
            return None
        readers = list(users[0].users)
        return users[0] if readers and all(user in self.by_node for user in readers) else None

    def read(self) -> Inspection:
        program = self.program
        layers = tuple(
            self.layer(node, key) for node, key in zip(self.nodes, node_keys(self.nodes), strict=True)
        )
        weights = "the float model" if self.reference else "this Program" if self.knows_own else ""
        scales = {part for q in self.by_node.values() if q.is_weight for part in q.node.all_input_nodes[1:]}
        tensors = {
            str(node.target): fx.tensor_of(self.module, node).numel()
            for node in self.module.graph.find_nodes(op="get_attr")
            if node not in scales and isinstance(node.meta.get("val"), Tensor)
        }
        return Inspection(
            program.origin,
            program.method,
            program.target,
            program.processor,
            program.weight_bits,
            program.activation_bits,
            program.skip,
            sum(tensors.values()),
            parameter_bytes(program),
            sum(self.macs.values()),
            weights,
            layers,
        )

    def layer(self, node: Node, key: Key) -> Layer:
        description = weighted(node)
        bias_node = bias_of(node, description) if description else None
        weights, computed = [], []
        for part in node.all_input_nodes:
            tensor = _stored(part)
            if tensor is None and _is_computed(part) and fx.is_float(part):
                computed.append(part)
            elif tensor is not None and part is not bias_node:
                weights.append(self.weight(part, tensor, description, key))
        if description:  # the weight first; matmul of a constant and a value has one operand as well
            computed = [cast(Node, node.args[description.input])]
        inputs = tuple(Input(self.source(part), self.grid(ungrouped(part))) for part in computed)
        bias = self.bias(node, description, bias_node, key) if description and bias_node else None
        state = _state(weights, inputs)
        first = _first(node)
        return Layer(
            name=fx.module_name(node),
            operator=str(node.target),
            family=family(node),
            output=tuple(fx.item_sizes(node)),
            dtype=str(first.dtype).removeprefix("torch."),
            macs=self.macs.get(node.name, 0),
            state=state,
            why=self.why(node, state, bool(weights)),
            weights=tuple(weights),
            bias=bias,
            inputs=inputs,
            outputs=self.outputs(node),
            fused=tuple(self.fused(node, description, bias_node, key)),
            bytes=sum(weight.bytes for weight in weights) + (bias.bytes if bias else 0),
        )

    def why(self, node: Node, state: str, has_weights: bool) -> str:
        """Why an operator, or what it reads, stayed float; empty if it is all integers."""
        method = self.program.method
        if state == "integer" or method in FLOAT:
            return FLOAT.get(method, "")
        if not self.program.decisions:
            return "not known: the file does not say what the rules decided"
        if reason := next((reason for reason in self.refusals.get(node.name, ()) if reason), None):
            return reason
        bare, kind = "" if has_weights else "no weights, and ", family(node) or short_name(node.target)
        return bare + NO_RULE.get(method, f"the rules of {self.program.target} run no '{kind}' in integers")

    def source(self, node: Node) -> str:
        """The module that a value is from, quantized or not."""
        quantizer = ungrouped(node)
        if finds_groups(quantizer):
            node, _ = quantizers_of.dynamic_ends(quantizer)
        while node.target in FAKE_QUANTIZE:
            node = cast(Node, node.args[0])
        return "the model's input" if node.op == "placeholder" else fx.module_name(node)

    def grid(self, node: Node) -> Grid | None:
        """The grid of a quantizer; None for a node that is none."""
        if node.target is FAKE_QUANTIZE_DYNAMIC:
            qmin, qmax = cast(tuple[int, int], node.args[3:5])
            bits = (qmax - qmin).bit_length()
            of = "per-group" if finds_groups(node) else "per-tensor"
            return Grid(bits, qmin < 0, finds_groups(node), f"{of}, at run time", qmin, qmax, (), ())
        quantizer = self.by_node.get(node)
        return None if quantizer is None else grid_of(quantizer)

    def weight(self, part: Node, stored: Node, description: Weighted | None, key: Key) -> Weight:
        tensor, quantizer = fx.tensor_of(self.module, stored), self.by_node.get(ungrouped(part))
        name = str(stored.target)
        if quantizer is None:
            return float_weight(name, tensor, self.values)
        integers, source = quantizer.integers(self.module), None
        if self.reference:
            source = self.reference.weight(key if description else name, tensor.shape)
        elif not torch.equal(tensor, real_values(quantizer, integers)):  # the Program was not saved
            source, self.knows_own = tensor, True
        weight = integer_weight(name, part.meta["val"], quantizer, integers, source, self.values)
        if weight.grid and ungrouped(part) is not part:
            weight = replace(weight, grid=replace(weight.grid, granularity="per-group"))
        return weight

    def bias(self, node: Node, description: Weighted, bias_node: Node, key: Key) -> Bias:
        bias = fx.tensor_of(self.module, bias_node)
        source = self.reference.bias(key, bias.shape) if self.reference else None
        unit = self.unit(node, description, len(bias))
        return bias_in_units(str(bias_node.target), bias, source, unit, self.values)

    def unit(self, node: Node, description: Weighted, size: int) -> Tensor | None:
        """What one unit of the int32 sums is worth, by output channel (float64); None if they are float."""
        input, weight = (
            self.by_node.get(cast(Node, node.args[at])) for at in (description.input, description.weight)
        )
        return bias_units(input, weight, size) if input and weight else None

    def outputs(self, node: Node) -> tuple[Grid, ...]:
        last = self.clip_after(node) or node
        grids = (self.grid(user) for user in last.users if user.target in FAKE_QUANTIZE)
        return tuple(dict.fromkeys(grid for grid in grids if grid is not None))

    def fused(
        self, node: Node, description: Weighted | None, bias_node: Node | None, key: Key
    ) -> Iterator[Fused]:
        for part in self.reference.folded.get(key, ()) if self.reference else ():
            yield Fused(fx.module_name(part), short_name(part.target), "folded into weight and bias")
        if self.reference is None and description and bias_node is not None:
            weight = _stored(cast(Node, node.args[description.weight]))
            if weight is not None and str(bias_node.target).startswith(f"{weight.target}__bias"):
                yield Fused("", "batch_norm", "folded into the weight, and a bias made of it")
        clip = self.clip_after(node)
        if clip is not None:
            yield Fused(fx.module_name(clip), short_name(clip.target), _clipped(clip, self.outputs(node)))


def _range_arithmetic(module: GraphModule) -> set[Node]:
    """The operators that find the ranges of dynamic quantization, which are no layers."""
    found: set[Node] = set()
    for quantizer in module.graph.find_nodes(op="call_function", target=FAKE_QUANTIZE_DYNAMIC):
        source, result = quantizers_of.dynamic_ends(quantizer)
        waiting = [result, *cast(tuple[Node, Node], quantizer.args[1:3])]
        while waiting:
            node = waiting.pop()
            if node is not source and node not in found:
                found.add(node)
                waiting += node.all_input_nodes
    return found


def _stored(node: Node) -> Node | None:
    """The model's tensor before a quantizer and the reshape of groups; None for what is computed."""
    node = ungrouped(node)
    while node.target in FAKE_QUANTIZE:
        node = cast(Node, node.args[0])
    return node if node.op == "get_attr" and isinstance(node.meta.get("val"), Tensor) else None


def _is_computed(node: Node) -> bool:
    return _stored(node) is None and node.op in ("placeholder", "call_function")


def _first(node: Node) -> Any:
    """The value of a node, or the first one of several."""
    value = node.meta.get("val")
    return value[0] if isinstance(value, list | tuple) and value else value


def _state(weights: list[Weight], inputs: tuple[Input, ...]) -> str:
    rounded = [part.grid is not None for part in inputs]
    has_integers = any(weight.grid is not None for weight in weights)
    if not weights:
        return "integer" if rounded and all(rounded) else "float"
    if has_integers:
        return "integer" if any(rounded) else "weights"
    return "float"


def _clipped(clip: Node, grids: tuple[Grid, ...]) -> str:
    """What clips, for a ReLU or clip whose output is rounded."""
    low, high = CLAMPS[clip.target](*clip.args) if not clip.kwargs else (None, None)
    ranges = [grid.range for grid in grids if grid.range]
    inside = all(
        (low is None or least >= low) and (high is None or most <= high * (1 + 1e-6))
        for least, most in ranges
    )
    if ranges and inside and (low, high) != (None, None):
        return "its clipping is done by the range of the output's quantizer"
    return "clips before the output's quantizer rounds"
