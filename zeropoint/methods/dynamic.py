"""Dynamic quantization: integer weights, activations quantized at run time by their own range.

Linear and recurrent layers; a convolution stays as it is. No data is needed. The inside of a recurrent layer
is one operator in ATen, so its hidden state stays float: its weights are integers, unpacked when they are
used.
"""

from torch.fx import Node

from zeropoint.errors import InputError
from zeropoint.graph import edits as fx
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import insert_dynamic
from zeropoint.methods.common import fold, keep_within_limits, quantized
from zeropoint.methods.method import Job, step
from zeropoint.numerics.scheme import Scheme
from zeropoint.passes.bias import correct_biases
from zeropoint.passes.group_ranges import group_ranges
from zeropoint.passes.insertion import insert_quantizers
from zeropoint.passes.row_ranges import scale_rows
from zeropoint.targets.placement import place_dynamic


@step(integers=("weights", "activations"))
def place_quantizers(program: Program, job: Job) -> Program:
    """Integer linear and recurrent weights, and run-time quantizers before linear layers.

    Raises InputError for symmetric activations: ranges at run time are affine.
    """
    if job.options.activation_symmetric:
        raise InputError("dynamic activations are affine; leave activation_symmetric out, or use static")
    module = fx.copy(program.module)
    placement = place_dynamic(module, job.target, job.options)

    def quantizer_after(source: Node, scheme: Scheme, _: str) -> Node:
        return insert_dynamic(module, source, scheme)

    insert_quantizers(module, placement, job.target, job.options, quantizer_after)
    return quantized(program, module, "dynamic", placement, job)


@step()
def make_up_for_rounding(program: Program, job: Job) -> Program:
    """After a batch norm, biases make up for what rounding the weights does to the mean output."""
    return correct_biases(program, job.float32)


@step()
def give_rows_ranges(program: Program, job: Job) -> Program:
    """Ranges as the engine finds them, and one for every row where it finds one for a whole tensor."""
    if job.target.run_time_group or job.target.ranges_of_rows:
        return group_ranges(program, job.target.run_time_group)
    return scale_rows(program) if job.target.ranges_of_tensors else program


DYNAMIC = (fold, place_quantizers, make_up_for_rounding, keep_within_limits, give_rows_ranges)
