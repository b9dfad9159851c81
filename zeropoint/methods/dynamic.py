"""Dynamic quantization: integer weights, activations quantized at run time by their own range.

Linear, LSTM and GRU layers; a convolution stays as it is. No data is needed. The inside of a recurrent layer
is one operator in ATen, so its hidden state stays float: its weights are integers, unpacked when they are
used.
"""

import dataclasses
from functools import partial

from zeropoint import graph as fx
from zeropoint.errors import InputError
from zeropoint.methods.bias import correct_biases
from zeropoint.methods.fold import fold_batch_norms
from zeropoint.methods.insertion import insert_quantizers
from zeropoint.options import Options
from zeropoint.placement import place_dynamic
from zeropoint.program import Program
from zeropoint.quantizers import insert_dynamic
from zeropoint.target import Target


def dynamic(program: Program, target: Target, options: Options) -> Program:
    """The Program with integer linear and recurrent weights, and run-time quantizers before linear layers.

    Behind a batch norm, biases make up for what rounding the weights does to the mean output.

    Raises InputError for symmetric activations: ranges at run time are affine.
    """
    if options.activation_symmetric:
        raise InputError("dynamic activations are affine; leave activation_symmetric out, or use static")
    options.check_patterns(fx.module_names(program.module))
    folded = fold_batch_norms(program, options.no_fuse)
    module = fx.copy(folded.module)
    placement = place_dynamic(module, target, options)
    insert_quantizers(module, placement, target, options, partial(insert_dynamic, module))
    quantized = dataclasses.replace(
        folded,
        module=module,
        method="dynamic",
        target=target.name,
        processor=target.processor,
        skip=options.skip,
        weight_bits=options.weight_bits,
        activation_bits=options.activation_bits,
    )
    return correct_biases(quantized, program)
