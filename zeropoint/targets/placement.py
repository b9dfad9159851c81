"""Placement: which edges and weights carry a quantizer, decided by a Target's rules alone."""

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import cast

from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.operators import (
    EMBEDDINGS,
    FAKE_QUANTIZE,
    RECURRENT,
    SOFTMAX,
    SPLITS,
    TRANSPARENT,
    Weighted,
    family,
    weighted,
)
from zeropoint.numerics.scheme import Scheme
from zeropoint.targets.options import Options, matches
from zeropoint.targets.processor import PROCESSORS
from zeropoint.targets.target import Target

POOLING = ("mean", "avg_pool")
END_BITS_BELOW = 4  # bits of weights at which the first and last layers keep 8 of their own


@dataclass(frozen=True)
class Edge:
    """The value of node ``source`` as it enters node ``user``, both by name, and how it is quantized."""

    source: str
    user: str
    scheme: Scheme


@dataclass(frozen=True)
class WeightPlace:
    """A weight, by the name of its ``get_attr`` node, the axis of its output channels, and its scheme.

    ``group``: so many inputs to an output are quantized as a channel of their own; None: all of them as one.
    """

    node: str
    axis: int
    scheme: Scheme
    group: int | None = None


@dataclass(frozen=True)
class Placement:
    """Where quantizers go; comparable, so that engines with equal placements share one Program."""

    edges: frozenset[Edge]
    weights: frozenset[WeightPlace]

    @property
    def sources(self) -> list[str]:
        """The nodes whose ranges have to be known."""
        return sorted({edge.source for edge in self.edges})


class _Edges:
    """Edges as they are collected: where two schemes are wanted for one, that of more bits holds.

    ``wide`` are globs of the modules whose inputs and outputs get 16 bits.
    """

    def __init__(self, wide: tuple[str, ...] = ()) -> None:
        self._schemes: dict[tuple[str, str], Scheme] = {}
        self._wide = wide

    def add(self, pairs: Iterable[tuple[Node, Node]], scheme: Scheme, reader: Node | None = None) -> None:
        """Takes in edges that lead to ``reader``, if only by way of moves; without one, each to its own."""
        for source, user in pairs:
            ends = (before_moves(source), reader or user)
            is_wide = any(matches(fx.module_name(end), self._wide) for end in ends)
            wanted = replace(scheme, bits=16) if is_wide else scheme
            before = self._schemes.setdefault((source.name, user.name), wanted)
            if wanted.bits > before.bits:
                self._schemes[source.name, user.name] = wanted

    def widen(self, source: Node, user: Node) -> None:
        """Gives an edge 16 bits: a value is cut to a range there, and hardly rounded."""
        key = source.name, user.name
        self._schemes[key] = replace(self._schemes[key], bits=16)

    def has_all(self, source: Node) -> bool:
        """Whether every edge from a node is among them."""
        return all((source.name, user.name) in self._schemes for user in source.users)

    def sources(self) -> set[str]:
        return {source for source, _ in self._schemes}

    def all(self) -> frozenset[Edge]:
        return frozenset(Edge(*names, scheme) for names, scheme in self._schemes.items())


def place_static(module: GraphModule, target: Target, options: Options) -> Placement:
    """Quantizers for static quantization: on the inputs and weights of what the target runs in int8.

    A quantizer goes where a value is made, not where it is used: behind activations that the engine fuses,
    and before operators that only move values (pooling by maximum, reshapes), so that these run on integers
    too.
    """
    edges = _Edges(options.activation16)
    products: list[tuple[tuple[Node, Node], Node]] = []
    cut: list[tuple[Node, Node]] = []  # operands that are added before they are rounded, and their additions
    weights: set[WeightPlace] = set()
    ends = _ends(module)
    few = options.activations(target.activations)
    enough = replace(few, bits=max(8, few.bits))  # where nothing is multiplied fewer bits gain nothing
    last = replace(few, bits=options.end_bits or enough.bits)

    def entering(user: Node) -> Scheme:
        return (last if user in ends else few) if weighted(user) else enough

    for node in module.graph.nodes:
        if node.op != "call_function" or matches(fx.module_name(node), options.skip):
            continue
        kind, description = family(node), weighted(node)
        if description and kind in target.weighted:
            place = _weight_place(node, description, target, options, node in ends)
            weights.add(place)
            # No engine has kernels for integer inputs and a scale for each group: they would be rounded for
            # nothing, and ONNX Runtime would round such weights again, to one scale for all (28 dB of 38).
            if place.group is None and not _stays_float(node, target, options):
                into = _edges_into(node, [cast(Node, node.args[description.input])], target)
                edges.add(into, entering(node), node)
            behind: list[Node] = []
            if _is_unfused(node, options):  # convolution, batch norm and activation each get their own
                behind = [node, *(user for user in node.users if family(user) == "batch_norm")]
            elif kind in target.outputs:
                behind = [_last_fused(node, target)]
            for part in behind:
                for pair in _edges_behind(part):
                    edges.add([pair], entering(pair[1]))
        elif kind in target.inputs and kind == "product":
            for operand in _operands(node):
                is_share = before_moves(operand).target in SOFTMAX
                pairs = _edges_into(node, [operand], target)
                if is_share:
                    edges.add(pairs, few, node)
                else:
                    products += [(pair, node) for pair in pairs]
        elif kind in target.inputs and (kind != "add" or _stays_in_integers(node, target)):
            operands = _operands(node)
            # An addition is done inside one of its operands only, the other one comes to it rounded.
            fused = [one for one in operands if _is_fused_operand(one, kind, target, options)][:1]
            rounded = [one for one in operands if one not in fused or not target.adds_before_rounding]
            edges.add(_edges_into(node, rounded, target), enough, node)
            if target.cuts_before_adding and len(rounded) == 2:
                cut += [(one, node) for one in fused]
            if kind == "add" and operands and target.pools_sums:
                edges.add(_into_pooling(node, options), enough)
            if kind in target.outputs:
                for pair in _edges_behind(node):
                    edges.add([pair], entering(pair[1]))
    sources, product = edges.sources(), options.activations(target.products)
    others = {before_moves(node) for node in module.graph.nodes if node.name in sources}
    for pair, node in products:
        edges.add([pair], few if before_moves(pair[0]) in others else product, node)
    for operand, node in cut:
        users = list(node.users)
        if edges.has_all(users[0] if len(users) == 1 and family(users[0]) == "relu" else node):
            edges.widen(operand, node)
    return Placement(edges.all(), frozenset(weights | _tables(module, target, options)))


def _stays_float(layer: Node, target: Target, options: Options) -> bool:
    """Whether a layer's input stays float, as the engine is no faster with 8 bits; other bits are heeded."""
    return family(layer) in target.weights_alone and options.activation_bits == 8


def _weight_place(
    node: Node, description: Weighted, target: Target, options: Options, is_end: bool
) -> WeightPlace:
    weight, scheme = cast(Node, node.args[description.weight]), options.weights(target.weights)
    if is_end:
        scheme = replace(
            scheme, bits=options.end_bits or (8 if scheme.bits < END_BITS_BELOW else scheme.bits)
        )
    if PROCESSORS[target.processor].saturates and not scheme.symmetric:
        scheme = replace(scheme, bits=min(scheme.bits, 7))  # half the range: no two products can overflow
    shape = weight.meta["val"].shape
    axis = description.channel_axis % len(shape)
    has_rows = description.family == "linear" and axis == 0 and len(shape) == 2
    return WeightPlace(weight.name, axis, scheme, options.group(shape[1]) if has_rows else None)


def _tables(module: GraphModule, target: Target, options: Options) -> set[WeightPlace]:
    """The tables that nothing but embeddings read, with a scale for each row.

    They are what a network begins with, and most of what small language models weigh: of 8 bits whatever
    other weights have.
    """

    def is_table(node: Node) -> bool:
        read = all(user.target in EMBEDDINGS and user.args[0] is node for user in node.users)
        return read and not any(matches(fx.module_name(user), options.skip) for user in node.users)

    scheme = replace(options.weights(target.weights), bits=options.end_bits or 8)
    constants = module.graph.find_nodes(op="get_attr")
    return {WeightPlace(node.name, 0, scheme) for node in constants if node.users and is_table(node)}


def _ends(module: GraphModule) -> set[Node]:
    """The weighted operators before which there is none, and those behind which there is none."""

    def first(nodes: list[Node], neighbours: Callable[[Node], Iterable[Node]]) -> set[Node]:
        found, behind = set(), set()
        for node in nodes:
            if any(other in behind or other in found for other in neighbours(node)):
                behind.add(node)
            elif weighted(node):
                found.add(node)
        return found

    nodes = list(module.graph.nodes)
    return first(nodes, lambda node: node.all_input_nodes) | first(nodes[::-1], lambda node: node.users)


def _is_unfused(node: Node, options: Options) -> bool:
    """Whether the user wants a weighted operator, or the layer behind it, kept apart from the other."""
    return any(matches(fx.module_name(part), options.no_fuse) for part in (node, *node.users))


def _operands(node: Node) -> list[Node]:
    """The tensors an operator without a weight works on, or none where one is a constant or an integer."""
    operands = node.args[0] if isinstance(node.args[0], list | tuple) else node.args[:2]
    if family(node) in POOLING:
        operands = node.args[:1]
    tensors = [operand for operand in operands if isinstance(operand, Node)]
    computed = all(fx.is_float(operand) and operand.op != "get_attr" for operand in tensors)
    return tensors if computed and len(tensors) == len(operands) else []


def _stays_in_integers(addition: Node, target: Target) -> bool:
    """Whether a residual stream is read by integer operators, as in a convolutional network.

    In a transformer only layer norms and further additions read it: it stays float there. A mean over space,
    as in front of a classifier, keeps integers, one over tokens does not count.
    """
    seen, waiting = set(), [addition]
    while waiting:
        node = waiting.pop()
        for user in node.users:
            if weighted(user) and family(user) in target.weighted:
                return True
            kind, moves = family(user), user.target in TRANSPARENT | SPLITS | {operator.getitem}
            in_integers = _pools(user) if kind in POOLING else kind in ("add", "relu", *target.inputs)
            moves = moves or in_integers
            if moves and user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


def _pools(node: Node) -> bool:
    """Whether a node averages over space, the axes behind the channels."""
    if family(node) == "mean":
        rank = len(cast(Node, node.args[0]).meta["val"].shape)
        axes = {axis % rank for axis in cast(list[int], node.args[1] or ())}
        return rank > 3 and axes == set(range(2, rank))
    return family(node) == "avg_pool"


def _into_pooling(addition: Node, options: Options) -> list[tuple[Node, Node]]:
    """The edges from a sum, or the ReLU behind it, into what averages it over space."""
    users = list(addition.users)
    source = users[0] if len(users) == 1 and family(users[0]) == "relu" else addition
    pooling = [user for user in source.users if _pools(user)]
    return [(source, user) for user in pooling if not matches(fx.module_name(user), options.skip)]


def _is_fused_operand(operand: Node, kind: str, target: Target, options: Options) -> bool:
    """Whether the addition is done inside the weighted operator that makes this operand, before rounding."""
    in_integers = weighted(operand) and family(operand) in target.weighted
    quantized = in_integers and not matches(fx.module_name(operand), options.skip)
    fuses = kind == "add" and not _is_unfused(operand, options)
    return bool(fuses and quantized and len(operand.users) == 1)


def _moved_from(node: Node) -> tuple[Node, Node] | None:
    """The node whose values ``node`` only moves, and what reads them for it; None where it does more."""
    if node.target in TRANSPARENT:
        return cast(Node, node.args[0]), node
    if node.target is operator.getitem and cast(Node, node.args[0]).target in SPLITS:
        split = cast(Node, node.args[0])
        return cast(Node, split.args[0]), split
    return None


def before_moves(node: Node) -> Node:
    """The node whose values ``node`` holds, moved about or quantized: itself where it does neither."""
    while True:
        if node.target in FAKE_QUANTIZE:
            node = cast(Node, node.args[0])
        elif moved := _moved_from(node):
            node, _ = moved
        else:
            return node


def shared_grids(module: GraphModule, placement: Placement) -> dict[str, str]:
    """For each source whose grid a concatenation joins to that of others, before moves, the group's name.

    A concatenation on one grid only copies; engines first bring other operands to the grid of the output.
    """
    group: dict[str, str] = {}
    quantized = {before_moves(node).name for node in module.graph.nodes if node.name in placement.sources}
    for node in [node for node in module.graph.nodes if family(node) == "cat"]:
        members = {before_moves(operand).name for operand in _operands(node)}
        if not members or not members <= quantized:
            continue
        members |= {node.name} & quantized
        joined = {group.get(member, member) for member in members}
        name = min(joined)
        group |= {member: name for member in members}
        group |= {member: name for member, other in group.items() if other in joined}
    return group


def _edges_into(node: Node, operands: list[Node], target: Target) -> list[tuple[Node, Node]]:
    """The edge into ``node`` for each operand, and the one at the head of the moves that it has come through.

    The value at the end of the moves is on the grid already, but the PyTorch compiler's kernels are int8 only
    with a quantizer right before them (12% on ResNet-50); the other engines drop the second one.
    """
    edges = []
    for operand in [operand for operand in operands if fx.is_float(operand)]:
        edges.append((operand, node))
        head, reader, split = operand, node, False
        while moved := _moved_from(head):
            head, reader = moved
            split = split or reader.target in SPLITS
        # Only a part of what is split goes here, and the rest may stay float.
        if head is not operand and (
            not split or family(head) in target.inputs or _all_integers(reader, target)
        ):
            edges.append((head, reader))
    return edges


def _all_integers(moves: Node, target: Target) -> bool:
    """Whether all that read what ``moves`` moves compute with integers."""
    for user in moves.users:
        if user.target in TRANSPARENT | SPLITS | {operator.getitem}:
            if not _all_integers(user, target):
                return False
        elif family(user) not in (target.weighted if weighted(user) else target.inputs):
            return False
    return True


def _last_fused(node: Node, target: Target) -> Node:
    """The activation that the engine fuses to a weighted operator, or the operator where it fuses none."""
    users = list(node.users)
    return users[0] if len(users) == 1 and family(users[0]) in target.fused else node


def _edges_behind(node: Node) -> list[tuple[Node, Node]]:
    return [(node, user) for user in node.users if user.op != "output"]


def place_dynamic(module: GraphModule, target: Target, options: Options) -> Placement:
    """Quantizers for dynamic quantization: linear and recurrent layers; convolutions stay as they are."""
    edges = _Edges()
    weights: set[WeightPlace] = set()
    activation, weight_scheme = options.activations(target.activations), options.weights(target.weights)
    for node in module.graph.nodes:
        if node.op != "call_function" or matches(fx.module_name(node), options.skip):
            continue
        description = weighted(node)
        if description and description.family == "linear":
            if not _stays_float(node, target, options):
                edges.add([(cast(Node, node.args[description.input]), node)], activation)
            weights.add(_weight_place(node, description, target, options, is_end=False))
        elif node.target in RECURRENT:
            tensors = [part for part in cast(list[object], node.args[2]) if isinstance(part, Node)]
            matrices = [matrix for matrix in tensors if matrix.meta["val"].dim() == 2]
            weights |= {WeightPlace(matrix.name, 0, weight_scheme) for matrix in matrices}
    return Placement(edges.all(), frozenset(weights | _tables(module, target, options)))
