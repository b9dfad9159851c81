"""Passes that several methods have."""

import dataclasses
from typing import Any

from torch.fx import GraphModule

from zeropoint.graph import edits as fx
from zeropoint.graph.program import Program
from zeropoint.methods.method import Job, step
from zeropoint.passes.fold import fold_affine
from zeropoint.passes.integer_bias import round_biases as biases_rounded
from zeropoint.passes.pairs import within_limits
from zeropoint.targets.placement import Placement


@step()
def fold(program: Program, job: Job) -> Program:
    """Batch norms become part of the layers before them, but for those that the user keeps apart."""
    job.options.check_patterns(fx.module_names(program.module))
    return fold_affine(program, job.options.no_fuse)


@step()
def round_biases(program: Program, job: Job) -> Program:
    """Biases become whole numbers of the units that integer kernels add."""
    return biases_rounded(program)


@step()
def keep_within_limits(program: Program, job: Job) -> Program:
    """No two weights overflow on the processor that the Program is for."""
    return within_limits(program)


def quantized(
    program: Program, module: GraphModule, method: str, placement: Placement, job: Job, **changed: Any
) -> Program:
    """The Program with quantizers in its ``module``, and what is known of them: 32 bits if there are none."""
    nothing = not (placement.weights or placement.edges)
    facts: dict[str, Any] = {
        "module": module,
        "method": method,
        "target": job.target.name,
        "processor": job.target.processor,
        "skip": job.options.skip,
        "weight_bits": job.options.weight_bits,
        "activation_bits": job.options.activation_bits,
        "decisions": placement.decisions,
    }
    as_float = {"weight_bits": 32, "activation_bits": 32} if nothing else {}
    return dataclasses.replace(program, **(facts | changed | as_float))
