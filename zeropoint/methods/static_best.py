"""Static quantization at its most accurate: minutes where ``static`` takes seconds."""

import dataclasses

from zeropoint.graph.program import Program
from zeropoint.methods.common import keep_within_limits, round_biases
from zeropoint.methods.method import Job, step
from zeropoint.methods.static import NEAREST, fitted
from zeropoint.passes.distil import distil


@step("calibration")
def fit_thoroughly(program: Program, job: Job) -> Program:
    """All layers are fitted to the data, whatever time that takes."""
    return fitted(program, job, thorough=True)


@step("calibration")
def learn_from_float(program: Program, job: Job) -> Program:
    """Weights and scales are distilled from the float network; the checkpoint keeps how far that has got."""
    rounded = dataclasses.replace(program, module=program.unfitted or program.module, unfitted=None)
    seen, seed = job.calibration_batches, job.options.seed
    return dataclasses.replace(distil(program, rounded, seen, seed, job.checkpoint), method="static-best")


STATIC_BEST = (*NEAREST, fit_thoroughly, learn_from_float, round_biases, keep_within_limits)
