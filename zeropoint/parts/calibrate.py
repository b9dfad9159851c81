"""Calibrate: a captured part is quantized on the tensors of its calls."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from zeropoint.graph.program import Program
from zeropoint.graph.signature import positional
from zeropoint.quantization import quantize
from zeropoint.targets.options import Options

Calls = Callable[[], Iterator[tuple[Tensor, ...]]]
"""Starts the calls of a part again: of each the input tensors, in order."""


def quantize_on(program: Program, calls: Calls, method: str, engine: str, options: Options) -> Program:
    """The captured part after a method that is calibrated on its calls.

    It has one input for each tensor meanwhile, so that a call is not mistaken for inputs and targets.
    """
    flat = dataclasses.replace(program, signature=positional(program.signature.input_names, None))
    quantized = quantize(flat, method, calibration=_Batches(calls), target=engine, options=options)
    return dataclasses.replace(quantized, signature=program.signature)


@dataclass(frozen=True)
class _Batches:
    """Calls as a loader, which is read any number of times."""

    calls: Calls

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return self.calls()
