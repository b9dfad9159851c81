"""Dynamic quantization: integer weights, activations quantized at run time by their own range.

Linear, LSTM and GRU layers; a convolution stays as it is. No data is needed. The inside of a recurrent layer
is one operator in ATen, so its hidden state stays float: its weights are integers, unpacked when they are
used.
"""

import dataclasses

from zeropoint import graph as fx
from zeropoint.methods.fold import fold_batch_norms
from zeropoint.methods.static import quantize_weights
from zeropoint.options import Options
from zeropoint.placement import place_dynamic
from zeropoint.program import Program
from zeropoint.quantizers import insert_dynamic
from zeropoint.target import Target


def dynamic(program: Program, target: Target, options: Options) -> Program:
    """The Program with integer linear and recurrent weights, and run-time quantizers before linear layers."""
    options.check_patterns(fx.module_names(program.module))
    folded = fold_batch_norms(program, options.no_fuse)
    module = fx.copy(folded.module)
    placement = place_dynamic(module, target, options)
    nodes = {node.name: node for node in module.graph.nodes}
    for source in placement.sources:
        quantizer = insert_dynamic(module, nodes[source], placement.activation_scheme)
        for edge in placement.edges:
            if edge.source == source:
                nodes[edge.user].replace_input_with(nodes[source], quantizer)
    quantize_weights(module, placement, options)
    fx.remove_unused(module)
    return dataclasses.replace(
        folded,
        module=module,
        method="dynamic",
        target=target.name,
        weight_bits=placement.weight_scheme.bits,
        activation_bits=placement.activation_scheme.bits,
    )
