"""Weight-only quantization: integer weights, for size; activations and arithmetic stay float."""

from zeropoint.graph import edits as fx
from zeropoint.graph.program import Program
from zeropoint.methods.common import fold, keep_within_limits, quantized
from zeropoint.methods.method import Job, step
from zeropoint.methods.static import fit
from zeropoint.passes.equalize import equalize
from zeropoint.passes.insertion import insert_quantizers
from zeropoint.targets.placement import place_weights


@step("calibration")
def equalize_weights(program: Program, job: Job) -> Program:
    """The ranges of weights are made equal where a scale can move from one layer to the next."""
    return equalize(program, job.calibration_batches, job.options, activations=False).program


@step(integers=("weights",))
def quantize_weights(program: Program, job: Job) -> Program:
    """The weights that ``static`` quantizes, each at the nearest of its grid."""
    module = fx.copy(program.module)
    placement = place_weights(module, job.target, job.options)
    insert_quantizers(module, placement, job.target, job.options)
    return quantized(program, module, "weight-only", placement, job, activation_bits=32)


WEIGHT_ONLY = (fold, equalize_weights, quantize_weights, fit, keep_within_limits)
