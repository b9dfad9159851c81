"""Static quantization: integer weights and activations, with ranges from calibration data."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from torch.fx import GraphModule

from zeropoint import graph as fx
from zeropoint.methods.fold import fold_batch_norms
from zeropoint.options import Options
from zeropoint.placement import Placement, before_moves, place_static
from zeropoint.program import Program
from zeropoint.quantizers import insert_activation, insert_weight
from zeropoint.ranges import WEIGHT_ESTIMATORS, observe
from zeropoint.target import Target


def static(program: Program, target: Target, calibration: Iterable[Any], options: Options) -> Program:
    """The Program with fake-quantized weights and activations where ``target`` runs in int8."""
    options.check_patterns(fx.module_names(program.module))
    folded = fold_batch_norms(program, options.no_fuse)
    module = fx.copy(folded.module)
    placement = place_static(module, target, options)
    scheme = placement.activation_scheme
    limit = options.calibration_batches
    nodes = {node.name: node for node in module.graph.nodes}
    # Moved values stay on the grid of where they were made, so that quantizing them again changes nothing.
    made_at = {source: before_moves(nodes[source]).name for source in placement.sources}
    observed = sorted(set(made_at.values()))
    parameters = observe(module, observed, calibration, options.ranges, scheme, limit)
    for source in placement.sources:
        users = [nodes[edge.user] for edge in placement.edges if edge.source == source]
        quantizer = insert_activation(module, nodes[source], *parameters[made_at[source]], scheme)
        for user in users:
            user.replace_input_with(nodes[source], quantizer)
    quantize_weights(module, placement, options)
    fx.remove_unused(module)
    return dataclasses.replace(
        folded,
        module=module,
        method="static",
        target=target.name,
        weight_bits=placement.weight_scheme.bits,
        activation_bits=scheme.bits,
    )


def quantize_weights(module: GraphModule, placement: Placement, options: Options) -> None:
    """Puts a quantizer behind every weight of the placement."""
    nodes = {node.name: node for node in module.graph.nodes}
    scheme = placement.weight_scheme
    for place in sorted(placement.weights, key=lambda place: place.node):
        weight = fx.tensor_of(module, nodes[place.node])
        scale, zero_point = WEIGHT_ESTIMATORS[options.weight_ranges](weight, scheme, place.axis)
        insert_weight(module, nodes[place.node], scale, zero_point, scheme, place.axis)
