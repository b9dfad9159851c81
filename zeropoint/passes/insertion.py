"""Insertion: the quantizers of a Placement put into the graph."""

from collections.abc import Callable, Mapping

from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.operators import aten
from zeropoint.graph.quantizers import insert_weight
from zeropoint.numerics.ranges import WEIGHT_ESTIMATORS
from zeropoint.numerics.scheme import Scheme
from zeropoint.targets.options import Options
from zeropoint.targets.placement import Edge, Placement
from zeropoint.targets.saturation import pairings, safe_scale
from zeropoint.targets.target import Target


def insert_quantizers(
    module: GraphModule,
    placement: Placement,
    target: Target,
    options: Options,
    activation: Callable[[Node, Scheme, str], Node] | None = None,
    shared: Mapping[Edge, str] | None = None,
) -> None:
    """Puts a quantizer on every edge and weight of the placement; ``activation`` makes those of activations.

    It is given a node, the scheme, and the grid by name: the one that an edge has ``shared`` with others, or
    "" for the source's own. A value on a shared grid that has one of its own for other readers comes from
    there, as integers. Scales of 8-bit weights are such that no two products overflow on the processor of the
    ``target``.
    """
    nodes = {node.name: node for node in module.graph.nodes}
    readers: dict[tuple[str, Scheme, str], list[str]] = {}
    for edge in sorted(placement.edges, key=lambda edge: (edge.source, edge.scheme.bits, edge.user)):
        readers.setdefault((edge.source, edge.scheme, (shared or {}).get(edge, "")), []).append(edge.user)
    own: dict[tuple[str, Scheme], Node] = {}
    for (source, scheme, grid), users in sorted(readers.items(), key=lambda item: item[0][2] != ""):
        assert activation is not None
        quantizer = activation(own.get((source, scheme), nodes[source]), scheme, grid)
        if not grid:
            own[source, scheme] = quantizer
        for user in users:
            nodes[user].replace_input_with(nodes[source], quantizer)
    paired = pairings(module, target.processor)
    for place in {place.node: place for place in sorted(placement.weights, key=repr)}.values():
        node, scheme = nodes[place.node], place.scheme
        if place.group is not None:
            _regroup(module, node, place.group, -1 if place.inputs is None else place.inputs)
        estimate = WEIGHT_ESTIMATORS[options.weight_ranges or ("minmax" if scheme.bits == 8 else "mse")]
        weight = fx.tensor_of(module, node)
        scale, zero_point = estimate(weight, scheme, place.axis)
        if scheme.bits == 8 and (pairing := paired.get(str(node.target))):
            scale = safe_scale(weight, scale, pairing, place.axis)
        insert_weight(module, node, scale, zero_point, scheme, place.axis)
    fx.remove_unused(module)


def _regroup(module: GraphModule, weight: Node, size: int, inputs: int) -> None:
    """Stores a weight with groups along its axis ``inputs`` as rows; its users read it in its old shape."""
    users, whole = list(weight.users), fx.tensor_of(module, weight)
    moved = whole.movedim(inputs, -1)
    with module.graph.inserting_after(weight):
        value = module.graph.call_function(aten.reshape.default, (weight, list(moved.shape)))
    value.meta = {**weight.meta, "val": weight.meta["val"].movedim(inputs, -1)}
    if inputs % whole.dim() != whole.dim() - 1:
        back = list(range(whole.dim()))
        back.insert(inputs, back.pop())
        with module.graph.inserting_after(value):
            value = module.graph.call_function(aten.permute.default, (value, back))
        value.meta = dict(weight.meta)
    rows = moved.reshape(-1, size)
    fx.set_tensor(module, str(weight.target), rows, trainable=True)
    weight.meta["val"] = rows
    for user in users:
        user.replace_input_with(weight, value)
