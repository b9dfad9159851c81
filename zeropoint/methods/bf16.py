"""bfloat16: weights and arithmetic in sixteen bits, for processors that multiply them directly."""

import dataclasses

from zeropoint.graph.program import Program
from zeropoint.methods.common import fold
from zeropoint.methods.method import Job, step
from zeropoint.passes.bfloat16 import narrowed


@step()
def narrow(program: Program, job: Job) -> Program:
    """Weights and arithmetic in bfloat16, skipped modules too; inputs and outputs stay float32."""
    module = narrowed(program.module)
    return dataclasses.replace(program, module=module, method="bf16", weight_bits=16, activation_bits=16)


BF16 = (fold, narrow)
