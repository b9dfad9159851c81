"""Placement: which edges and weights carry a quantizer, by the rules in ``targets.rules`` alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.moves import MOVES, before_moves
from zeropoint.graph.operators import family, weighted
from zeropoint.graph.program import Decision
from zeropoint.numerics.scheme import Scheme
from zeropoint.targets.checks import NOT_READ
from zeropoint.targets.options import Options
from zeropoint.targets.recipe import float_row
from zeropoint.targets.rules import DYNAMIC, STATIC, WEIGHTS, Rule
from zeropoint.targets.sites import Pair, Site, WeightPlace, kind_of, operands
from zeropoint.targets.target import Target


@dataclass(frozen=True)
class Edge:
    """The value of node ``source`` as it enters node ``user``, both by name, and how it is quantized."""

    source: str
    user: str
    scheme: Scheme


@dataclass(frozen=True)
class Placement:
    """Where quantizers go, and what every rule decided at every node that it is about."""

    edges: frozenset[Edge]
    weights: frozenset[WeightPlace]
    decisions: tuple[Decision, ...] = field(default=(), compare=False)

    @property
    def sources(self) -> list[str]:
        """The nodes whose ranges have to be known."""
        return sorted({edge.source for edge in self.edges})


def place_static(module: GraphModule, target: Target, options: Options) -> Placement:
    """Quantizers for static quantization: on the inputs and weights of what the target runs in int8.

    A quantizer goes where a value is made, not where it is used: after activations that the engine fuses, and
    before operators that only move values (pooling by maximum, reshapes), so that these run on integers too.
    """
    return place(module, target, options, STATIC)


def place_dynamic(module: GraphModule, target: Target, options: Options) -> Placement:
    """Quantizers for dynamic quantization: linear and recurrent layers; convolutions stay as they are."""
    return place(module, target, options, DYNAMIC)


def place_weights(module: GraphModule, target: Target, options: Options) -> Placement:
    """Quantizers for the weights that static quantization can quantize, and for no activations."""
    return place(module, replace(target, least_intensity=0.0), options, WEIGHTS)  # size counts, not time


def place(module: GraphModule, target: Target, options: Options, rules: Sequence[Rule]) -> Placement:
    """Applies the rules at every node that they are about: those that read other quantizers at the end.

    These begin with the last node, as they ask for the quantizers of a node's readers.
    """
    ends = frozenset(first_and_last(module))
    placed: dict[tuple[str, str], Scheme] = {}
    weights: set[WeightPlace] = set()
    decisions = []
    nodes = [node for node in module.graph.nodes if node.op == "call_function"]
    kept_float = {node: float_row(options.rows, fx.module_name(node)) for node in nodes}
    early = [rule for rule in rules if not rule.late]
    order = [(node, rule) for node in nodes for rule in early]
    order += [(node, rule) for rule in rules if rule.late for node in reversed(nodes)]
    carrying: frozenset[Node] | None = None
    for node, rule in order:
        if kind_of(node) not in rule.kinds:
            continue
        if rule.late and carrying is None:
            sources = {source for source, _ in placed}
            carrying = frozenset(before_moves(one) for one in module.graph.nodes if one.name in sources)
        site = Site(node, target, options, ends, placed, carrying or frozenset())
        pattern = kept_float[node]
        reason = rule.check(site) if pattern is None else f"skipped by the user ('{pattern}')"
        decisions.append(Decision(rule.name, node.name, reason))
        if reason is None:
            weights |= set(rule.weights(site))
            for pair, scheme in rule.edges(site):
                _add(placed, pair, _at_source(pair[0], scheme, options))
    edges = frozenset(Edge(*names, scheme) for names, scheme in placed.items())
    return Placement(edges, frozenset(weights), tuple(decisions))


def _at_source(source: Node, scheme: Scheme, options: Options) -> Scheme:
    """The scheme with as many bits as the layer is to give that makes the value."""
    least = options.layer(fx.module_name(before_moves(source))).output_bits or 0
    return replace(scheme, bits=max(scheme.bits, least))


def _add(placed: dict[tuple[str, str], Scheme], pair: Pair, scheme: Scheme) -> None:
    """Takes in an edge; if two schemes are wanted for one, that of more bits holds."""
    key = pair[0].name, pair[1].name
    if key not in placed or scheme.bits > placed[key].bits:
        placed[key] = scheme


def first_and_last(module: GraphModule) -> set[Node]:
    """The weighted operators before which there is none, and those after which there is none."""

    def first(nodes: list[Node], neighbours: Callable[[Node], Iterable[Node]]) -> set[Node]:
        found, after = set(), set()
        for node in nodes:
            if any(other in after or other in found for other in neighbours(node)):
                after.add(node)
            elif weighted(node):
                found.add(node)
        return found

    nodes = list(module.graph.nodes)
    return first(nodes, lambda node: node.all_input_nodes) | first(nodes[::-1], lambda node: node.users)


def shared_grids(module: GraphModule, placement: Placement) -> dict[str, str]:
    """For each source that a concatenation joins to others, before moves, the name of their grid.

    A concatenation on one grid only copies; engines first bring other operands to the grid of the output.
    One that is float needs none, though its operands are quantized for other reasons.
    """
    quantized = {before_moves(node).name for node in module.graph.nodes if node.name in placement.sources}
    stay_float = {decision.node for decision in placement.decisions if decision.reason == NOT_READ}
    groups: list[set[str]] = []
    for node in [node for node in module.graph.nodes if family(node) == "cat"]:
        if node.name in stay_float:
            continue
        members = {before_moves(operand).name for operand in operands(node)}
        if members and members <= quantized:
            members |= {node.name} & quantized
            joined = [group for group in groups if group & members]
            groups = [group for group in groups if group not in joined] + [members.union(*joined)]
    return {member: " ".join(sorted(group)) for group in groups for member in group}


def shared_edges(
    module: GraphModule,
    placement: Placement,
    shared: Mapping[str, str],
    is_alike: Callable[[str, str, Scheme], bool],
) -> dict[Edge, str]:
    """The edges on a grid that concatenations share, and its name; ``shared`` are the grids by source.

    They are those into the concatenations, and all others of a source that has no other readers, or for which
    ``is_alike(source, grid, scheme)``: else those readers would lose accuracy to a grid that is too coarse.
    """
    nodes = {node.name: node for node in module.graph.nodes}
    origins = {edge: before_moves(nodes[edge.source]).name for edge in placement.edges}
    joining = {edge for edge in placement.edges if family(nodes[edge.user]) == "cat"}
    moved = {edge for edge in placement.edges if nodes[edge.user].target in MOVES}
    elsewhere = {origins[edge] for edge in placement.edges - joining - moved}
    return {
        edge: shared[origin]
        for edge, origin in origins.items()
        if origin in shared
        and (edge in joining or origin not in elsewhere or is_alike(origin, shared[origin], edge.scheme))
    }
