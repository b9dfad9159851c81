"""Insertion: the quantizers of a Placement put into the graph."""

from collections.abc import Callable

from torch.fx import GraphModule, Node

from zeropoint import graph as fx
from zeropoint.options import Options
from zeropoint.placement import Placement
from zeropoint.quantizers import insert_weight
from zeropoint.ranges import WEIGHT_ESTIMATORS


def insert_quantizers(
    module: GraphModule, placement: Placement, options: Options, behind: Callable[[Node], Node]
) -> None:
    """Puts a quantizer on every edge and weight of the placement; ``behind`` makes those of activations."""
    nodes = {node.name: node for node in module.graph.nodes}
    for source in placement.sources:
        quantizer = behind(nodes[source])
        for edge in placement.edges:
            if edge.source == source:
                nodes[edge.user].replace_input_with(nodes[source], quantizer)
    scheme = placement.weight_scheme
    estimate = WEIGHT_ESTIMATORS[options.weight_ranges or ("minmax" if scheme.bits == 8 else "mse")]
    for place in sorted(placement.weights, key=lambda place: place.node):
        node = nodes[place.node]
        scale, zero_point = estimate(fx.tensor_of(module, node), scheme, place.axis)
        insert_weight(module, node, scale, zero_point, scheme, place.axis)
    fx.remove_unused(module)
