"""Placement: which edges and weights carry a quantizer, decided by a Target's rules alone."""

from dataclasses import dataclass

from torch.fx import GraphModule, Node

from zeropoint import graph as fx
from zeropoint.operators import RECURRENT, TRANSPARENT, aten, family, weighted
from zeropoint.options import Options, matches
from zeropoint.scheme import Scheme
from zeropoint.target import Target


@dataclass(frozen=True)
class Edge:
    """The value of node ``source`` as it enters node ``user``, both by name."""

    source: str
    user: str


@dataclass(frozen=True)
class WeightPlace:
    """A weight, by the name of its ``get_attr`` node, and the axis of its output channels."""

    node: str
    axis: int


@dataclass(frozen=True)
class Placement:
    """Where quantizers go; comparable, so that engines with equal placements share one Program."""

    edges: frozenset[Edge]
    weights: frozenset[WeightPlace]
    activation_scheme: Scheme
    weight_scheme: Scheme

    @property
    def sources(self) -> list[str]:
        """The nodes whose ranges have to be known."""
        return sorted({edge.source for edge in self.edges})


def place_static(module: GraphModule, target: Target, options: Options) -> Placement:
    """Quantizers for static quantization: on the inputs and weights of what the target runs in int8.

    A quantizer goes where a value is made, not where it is used: behind activations that the engine fuses, and
    before operators that only move values (pooling by maximum, reshapes), so that these run on integers too.
    """
    edges: set[Edge] = set()
    weights: set[WeightPlace] = set()
    for node in module.graph.nodes:
        if node.op != "call_function" or matches(fx.module_name(node), options.skip):
            continue
        kind, description = family(node), weighted(node)
        if description and kind in target.weighted:
            edges |= _edges_into(node, [node.args[description.input]])
            weight = node.args[description.weight]
            assert isinstance(weight, Node)
            weights.add(WeightPlace(weight.name, description.channel_axis % weight.meta["val"].dim()))
            if kind in target.outputs:
                edges |= _edges_out_of(node, target, options)
        elif kind in target.inputs:
            edges |= _edges_into(node, [n for n in _operands(node) if not _is_fused_operand(n, kind, target, options)])
        elif kind == "batch_norm":  # left unfused on the user's wish: a layer with a quantizer of its own
            edges |= _edges_into(node, [node.args[0]])
    return Placement(
        frozenset(edges), frozenset(weights), options.activations(target.activations), options.weights(target.weights)
    )


def _operands(node: Node) -> list[Node]:
    """The tensors an operator without a weight works on, or none where one is a constant or an integer."""
    operands = node.args[0] if isinstance(node.args[0], list | tuple) else node.args[:2]
    if node.target not in (aten.add.Tensor, aten.mul.Tensor, aten.cat.default):
        operands = node.args[:1]
    tensors = [operand for operand in operands if isinstance(operand, Node)]
    computed = all(fx.is_float(operand) and operand.op != "get_attr" for operand in tensors)
    return tensors if computed and len(tensors) == len(operands) else []


def _is_fused_operand(operand: Node, kind: str, target: Target, options: Options) -> bool:
    """Whether the addition is done inside the weighted operator that makes this operand, before any rounding."""
    quantized = weighted(operand) and not matches(fx.module_name(operand), options.skip)
    unfused = matches(fx.module_name(operand), options.no_fuse)
    return bool(kind == "add" and target.adds_before_rounding and quantized and len(operand.users) == 1 and not unfused)


def _edges_into(node: Node, operands: list[object]) -> set[Edge]:
    """The edge into ``node`` for each operand, and the edge at the head of the moves it has come through."""
    edges = set()
    for operand in operands:
        user = node
        while isinstance(operand, Node) and operand.target in TRANSPARENT:
            user, operand = operand, operand.args[0]
        if fx.is_float(operand):
            assert isinstance(operand, Node)
            edges.add(Edge(operand.name, user.name))
    return edges


def _edges_out_of(node: Node, target: Target, options: Options) -> set[Edge]:
    """The edges behind a weighted operator and the activation fused to it, for engines that need both ends."""
    last, unfused = node, matches(fx.module_name(node), options.no_fuse)
    users = list(node.users)
    if len(users) == 1 and not unfused and str(users[0].target).removeprefix("aten.") in target.fused:
        last = users[0]
    return {Edge(last.name, user.name) for user in last.users if user.op != "output"}


def place_dynamic(module: GraphModule, target: Target, options: Options) -> Placement:
    """Quantizers for dynamic quantization: linear and recurrent layers; convolutions stay as they are."""
    edges: set[Edge] = set()
    weights: set[WeightPlace] = set()
    for node in module.graph.nodes:
        if node.op != "call_function" or matches(fx.module_name(node), options.skip):
            continue
        description = weighted(node)
        if description and description.family == "linear":
            edges |= {Edge(operand.name, node.name) for operand in [node.args[description.input]] if fx.is_float(operand)}  # type: ignore[union-attr]
            weight = node.args[description.weight]
            assert isinstance(weight, Node)
            weights.add(WeightPlace(weight.name, description.channel_axis % weight.meta["val"].dim()))
        elif node.target in RECURRENT:
            matrices = [w for w in node.args[2] if isinstance(w, Node) and w.meta["val"].dim() == 2]  # type: ignore[union-attr]
            weights |= {WeightPlace(matrix.name, 0) for matrix in matrices}
    return Placement(
        frozenset(edges), frozenset(weights), options.activations(target.activations), options.weights(target.weights)
    )
