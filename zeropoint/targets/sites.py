"""Sites: a node as the rules of placement see it, and what they quantize there: edges and weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from torch.fx import Node

from zeropoint.graph import edits as fx
from zeropoint.graph.constants import is_constant
from zeropoint.graph.moves import MOVES, before_moves, moved_from
from zeropoint.graph.operators import (
    RECURRENT,
    SOFTMAX,
    SPLITS,
    Weighted,
    aten,
    family,
    short_name,
    weighted,
)
from zeropoint.numerics.scheme import Scheme
from zeropoint.targets import recipe
from zeropoint.targets.experts import stacks
from zeropoint.targets.options import Options
from zeropoint.targets.processor import PROCESSORS
from zeropoint.targets.recipe import Row, matches
from zeropoint.targets.target import Target

POOLING = ("mean", "avg_pool")
NORMS = {aten.layer_norm.default, aten.group_norm.default, aten.instance_norm.default, aten.rms_norm.default}
CONVOLUTIONS = ("conv", "conv1d", "conv3d", "conv_transpose")
RECURRENT_KINDS = tuple(sorted(map(short_name, RECURRENT)))

Pair = tuple[Node, Node]
"""The value of the first node as it enters the second."""


@dataclass(frozen=True)
class WeightPlace:
    """A weight, by the name of its ``get_attr`` node, the axis of its output channels, and its scheme.

    ``group``: the number of inputs of an output that share a scale; None if all do. ``inputs``: of a stack of
    matrices the axis of inputs; then every output of every matrix has a scale of its own.
    """

    node: str
    axis: int
    scheme: Scheme
    group: int | None = None
    inputs: int | None = None


@dataclass(frozen=True)
class Site:
    """A node as rules see it.

    ``ends`` are the first and last layers, ``placed`` the edges that have a scheme so far, by the names of
    their nodes, and ``carrying`` the nodes with a quantizer after the early rules.
    """

    node: Node
    target: Target
    options: Options
    ends: frozenset[Node]
    placed: Mapping[tuple[str, str], Scheme]
    carrying: frozenset[Node]

    @property
    def layer(self) -> Weighted:
        """Where the arguments of this weighted operator are."""
        return cast(Weighted, weighted(self.node))

    @property
    def has_own_bits(self) -> bool:
        """Whether the user chose bits for this layer."""
        own = recipe.merged(self.options.recipe, fx.module_name(self.node))
        is_end = self.node in self.ends and self.options.end_bits is not None
        return is_end or own.weight_bits is not None or own.activation_bits is not None

    def asked(self, node: Node) -> Row:
        """What the recipe says of a node's layer."""
        places = [recipe.FIRST_AND_LAST] if node in self.ends else []
        return self.options.layer(fx.module_name(node), *places)

    def entering(self, reader: Node) -> Scheme:
        """The scheme of what enters a node; where nothing is multiplied, fewer than 8 bits gain nothing."""
        scheme = self.asked(reader).activations(self.target.activations)
        return scheme if weighted(reader) else replace(scheme, bits=max(8, scheme.bits))


def kind_of(node: Node) -> str:
    """The family of a node's operator, or its short name if it has none."""
    return family(node) or short_name(node.target)


# What is quantized: edges with their schemes, and weights.


def of_input(site: Site) -> list[tuple[Pair, Scheme]]:
    """The input of a layer."""
    source = cast(Node, site.node.args[site.layer.input])
    return _with(_edges_into(site.node, [source], site.target), site.entering(site.node))


def of_input_itself(site: Site) -> list[tuple[Pair, Scheme]]:
    """The input of a layer, where it enters it: for ranges that are found at run time."""
    scheme = site.options.layer(fx.module_name(site.node)).activations(site.target.activations)
    return [((cast(Node, site.node.args[site.layer.input]), site.node), scheme)]


def of_operands(site: Site) -> list[tuple[Pair, Scheme]]:
    """The operands of an operator without a weight, but for the side of a sum that a layer adds inside."""
    inner = inside(site)
    read = [one for one in operands(site.node) if one not in inner]
    return _with(_edges_into(site.node, read, site.target), site.entering(site.node))


def of_first_operand(site: Site) -> list[tuple[Pair, Scheme]]:
    """The tensor that a reduction is over."""
    read = [cast(Node, site.node.args[0])]
    return _with(_edges_into(site.node, read, site.target), site.entering(site.node))


def of_convolutions_side(site: Site) -> list[tuple[Pair, Scheme]]:
    """The side of a sum that the addition is done in."""
    return _with(_edges_into(site.node, inside(site), site.target), site.entering(site.node))


def in_16_bits(site: Site) -> list[tuple[Pair, Scheme]]:
    """The convolution's side of a sum, in 16 bits: the value is cut to a range, and hardly rounded."""
    pairs = [(one, site.node) for one in inside(site)]
    return [(pair, replace(site.placed[pair[0].name, pair[1].name], bits=16)) for pair in pairs]


def of_shares(site: Site) -> list[tuple[Pair, Scheme]]:
    """What comes from a softmax, on the grid of any activation."""
    read = [one for one in operands(site.node) if before_moves(one).target in SOFTMAX]
    scheme = site.asked(site.node).activations(site.target.activations)
    return _with(_edges_into(site.node, read, site.target), scheme)


def of_factors(site: Site) -> list[tuple[Pair, Scheme]]:
    """The other factors of a product: on the target's grid for products, but for values that have another."""
    read = [one for one in operands(site.node) if before_moves(one).target not in SOFTMAX]
    row = site.asked(site.node)
    few, product = row.activations(site.target.activations), row.activations(site.target.products)
    pairs = _edges_into(site.node, read, site.target)
    return [(pair, few if before_moves(pair[0]) in site.carrying else product) for pair in pairs]


def of_pooled_sum(site: Site) -> list[tuple[Pair, Scheme]]:
    """The edges from a sum, or the ReLU after it, into what averages it over space."""
    users = list(site.node.users)
    source = users[0] if len(users) == 1 and family(users[0]) == "relu" else site.node
    pooling = [user for user in source.users if averages_space(user)]
    kept = [user for user in pooling if not site.options.layer(fx.module_name(user)).float]
    return [((source, user), site.entering(user)) for user in kept]


def after_fused(site: Site) -> list[tuple[Pair, Scheme]]:
    """The output of a layer or a sum, after the activation that the engine fuses to it."""
    users, last = list(site.node.users), site.node
    if kind_of(last) not in POOLING and len(users) == 1 and family(users[0]) in site.target.fused:
        last = users[0]
    return _after(site, last)


def after_each(site: Site) -> list[tuple[Pair, Scheme]]:
    """The outputs of a layer and of the batch norm after it."""
    norms = [user for user in site.node.users if family(user) == "batch_norm"]
    return [pair for part in (site.node, *norms) for pair in _after(site, part)]


def its_weight(site: Site) -> list[WeightPlace]:
    """The weight of a layer."""
    return [weight_of(site)]


def weight_of_dynamic(site: Site) -> list[WeightPlace]:
    """The weight of a layer, whether or not it is the first or last one."""
    return its_weight(replace(site, ends=frozenset()))


def its_matrices(site: Site) -> list[WeightPlace]:
    """The matrices of a recurrent layer, a scale for each row."""
    of_layers, *_ = given = site.node.args[2:]  # all in a list, or those of a cell
    tensors = cast(list[object], of_layers if isinstance(of_layers, Sequence) else given)
    stored = [part for part in tensors if isinstance(part, Node) and fx.is_stored(part)]
    scheme = site.options.layer(fx.module_name(site.node)).weights(site.target.weights)
    return [WeightPlace(part.name, 0, scheme) for part in stored if part.meta["val"].dim() == 2]


def its_stacks(site: Site) -> list[WeightPlace]:
    """The stacks of matrices that a product reads, a scale for each output of each matrix."""
    row = site.options.layer(fx.module_name(site.node))
    scheme = replace(row.weights(site.target.weights), granularity="per-channel")
    sizes = [(stored, axis, stored.meta["val"].shape[axis]) for stored, axis in stacks(site.node)]
    return [
        WeightPlace(stored.name, 0, scheme, row.group(size) or size, axis) for stored, axis, size in sizes
    ]


def its_table(site: Site) -> list[WeightPlace]:
    """The table of an embedding, a scale for each row."""
    table = cast(Node, site.node.args[0])
    name = fx.module_name(next(iter(table.users)))
    row = site.options.layer(name, recipe.EMBEDDINGS)
    return [WeightPlace(table.name, 0, row.weights(site.target.weights))]


def weight_of(site: Site) -> WeightPlace:
    """Where the weight of a layer is, and its scheme."""
    weight, description = cast(Node, site.node.args[site.layer.weight]), site.layer
    row = site.asked(site.node)
    scheme = row.weights(site.target.weights)
    if PROCESSORS[site.target.processor].saturates and not scheme.symmetric:
        scheme = replace(scheme, bits=min(scheme.bits, 7))  # half the range: no two products can overflow
    shape = weight.meta["val"].shape
    axis = description.channel_axis % len(shape)
    has_rows = description.family == "linear" and axis == 0 and len(shape) == 2
    return WeightPlace(weight.name, axis, scheme, row.group(shape[1]) if has_rows else None)


def _with(pairs: list[Pair], scheme: Scheme) -> list[tuple[Pair, Scheme]]:
    return [(pair, scheme) for pair in pairs]


def _after(site: Site, node: Node) -> list[tuple[Pair, Scheme]]:
    read = [user for user in node.users if site.target.outputs_anywhere or user.op != "output"]
    return [((node, user), site.entering(user)) for user in read]


def is_unfused(node: Node, options: Options) -> bool:
    """Whether the user wants a weighted operator kept apart from the layer after it."""
    return any(matches(fx.module_name(part), options.no_fuse) for part in (node, *node.users))


def operands(node: Node) -> list[Node]:
    """The tensors an operator without a weight works on, or none if one is a constant or an integer."""
    read = node.args[0] if isinstance(node.args[0], list | tuple) else node.args[:2]
    if family(node) in POOLING:
        read = node.args[:1]
    tensors = [operand for operand in read if isinstance(operand, Node)]
    computed = all(fx.is_float(operand) and not is_constant(operand) for operand in tensors)
    return tensors if computed and len(tensors) == len(read) else []


def inside(site: Site) -> list[Node]:
    """The operand of a sum that is made by a layer in which the addition is done, before rounding."""
    for operand in operands(site.node) if family(site.node) == "add" else ():
        in_integers = weighted(operand) and family(operand) in site.target.weighted
        is_float = site.options.layer(fx.module_name(operand)).float
        fuses = in_integers and not is_float and not is_unfused(operand, site.options)
        if fuses and len(operand.users) == 1:
            return [operand]
    return []


def stays_in_integers(value: Node, site: Site, *, inputs: bool = False) -> bool:
    """Whether a value is read by integer operators, as a residual stream is in a convolutional network.

    In a transformer only layer norms and further additions read it: it stays float there. A mean over space,
    as before a classifier, keeps integers, one over tokens does not count. With ``inputs`` layers do not
    count whose weights alone are integers. Products with a constant, and layers that the recipe keeps float,
    or their inputs, never count.
    """
    target = site.target
    layers = target.weighted - target.weights_alone if inputs else target.weighted
    seen, waiting = set(), [value]
    while waiting:
        for user in waiting.pop().users:
            if weighted(user) and family(user) in layers and site.asked(user).takes_integers:
                return True
            kind = family(user)
            passes = ("add", "relu", "batch_norm", *target.inputs)
            in_integers = averages_space(user) if kind in POOLING else kind in passes
            in_integers = in_integers and (kind != "mul" or bool(operands(user)))
            if (user.target in MOVES or in_integers) and user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


def is_normalized(value: Node) -> bool:
    """Whether nothing but norms reads a value, behind moves, sums and concatenations: it stays float."""
    seen, waiting = set(), [value]
    while waiting:
        for user in waiting.pop().users:
            if user.target in MOVES or family(user) in ("add", "cat"):
                waiting += [user] if user not in seen else []
                seen.add(user)
            elif user.target not in NORMS:
                return False
    return True


def intensity(layer: Node) -> float:
    """The multiply-accumulates of a layer for each value that it reads and writes (Williams et al. 2009)."""
    description = cast(Weighted, weighted(layer))
    read, weight = (cast(Node, layer.args[part]) for part in (description.input, description.weight))
    shape = weight.meta["val"].shape
    given, made = (math.prod(fx.item_sizes(node)) for node in (read, layer))
    inputs = math.prod(shape) // shape[description.channel_axis]
    return float(made * inputs / (given + made))


def averages_space(node: Node) -> bool:
    """Whether a node averages over space, the axes after the channels."""
    if family(node) == "mean":
        rank = len(cast(Node, node.args[0]).meta["val"].shape)
        axes = {axis % rank for axis in cast(list[int], node.args[1] or ())}
        return rank > 3 and axes == set(range(2, rank))
    return family(node) == "avg_pool"


TURNS = {aten.transpose.int, aten.permute.default, aten.t.default, aten.numpy_T.default}


def _edges_into(node: Node, read: list[Node], target: Target) -> list[Pair]:
    """The edge into ``node`` for each operand, and the one before the moves that it has come through.

    The value after the moves is on the grid already, but the PyTorch compiler's kernels are int8 only with a
    quantizer right before them (12% on ResNet-50); the other engines drop the second one.
    """
    edges = []
    for operand in [operand for operand in read if fx.is_float(operand)]:
        edges.append((operand, node))
        head, reader, split, turned = operand, node, False, False
        while moved := moved_from(head):
            head, reader = moved
            split, turned = split or reader.target in SPLITS, turned or reader.target in TURNS
        # Only a part of what is split goes here, and the rest may stay float; and so may a sum.
        part = split and family(head) not in target.inputs and not _all_integers(reader, target)
        part = part or ("add" not in target.inputs and _is_summed(reader))
        # Of a constant, as learned queries are, OpenVINO 2026.4.1 would fold the quantizer, and broadcast and
        # transpose the integers wrongly: -2 dB.
        folded = turned and fx.is_stored(head)
        if head is not operand and not part and not folded:
            edges.append((head, reader))
    return edges


def _is_summed(moves: Node) -> bool:
    """Whether a sum reads what ``moves`` moves."""
    return any(family(user) == "add" or (user.target in MOVES and _is_summed(user)) for user in moves.users)


def _all_integers(moves: Node, target: Target) -> bool:
    """Whether all that read what ``moves`` moves compute with integers."""
    for user in moves.users:
        if user.target in MOVES:
            if not _all_integers(user, target):
                return False
        elif family(user) not in (target.weighted if weighted(user) else target.inputs):
            return False
    return True
