"""Weight-only quantization: integer weights, for size; activations and arithmetic stay float."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from zeropoint import graph as fx
from zeropoint.batches import limit
from zeropoint.methods.equalize import equalize
from zeropoint.methods.fold import fold_batch_norms
from zeropoint.methods.insertion import insert_quantizers
from zeropoint.methods.static import fitted
from zeropoint.options import Options
from zeropoint.placement import place_static
from zeropoint.program import Program
from zeropoint.target import Target


def weight_only(program: Program, target: Target, calibration: Iterable[Any], options: Options) -> Program:
    """The Program with fake-quantized weights, those that ``static`` quantizes, rounded as there."""
    options.check_patterns(fx.module_names(program.module))
    folded = fold_batch_norms(program, options.no_fuse)
    folded = equalize(folded, limit(calibration, options.calibration_batches), options, activations=False)
    module = fx.copy(folded.module)
    placement = dataclasses.replace(place_static(module, target, options), edges=frozenset())
    insert_quantizers(module, placement, target, options)
    rounded = dataclasses.replace(
        folded,
        module=module,
        method="weight-only",
        target=target.name,
        processor=target.processor,
        skip=options.skip,
        weight_bits=options.weight_bits,
        activation_bits=32,
    )
    return fitted(program, rounded, calibration, options)
