"""Methods by name: what a user asks for, each a tuple of passes."""

from zeropoint.errors import InputError, closest
from zeropoint.graph.program import Program
from zeropoint.methods.bf16 import BF16
from zeropoint.methods.dynamic import DYNAMIC
from zeropoint.methods.method import Method
from zeropoint.methods.qat import QAT
from zeropoint.methods.static import STATIC
from zeropoint.methods.static_best import STATIC_BEST
from zeropoint.methods.weight_only import WEIGHT_ONLY
from zeropoint.targets.options import Options

METHODS = {
    "fp32": Method(),
    "bf16": Method(BF16),
    "dynamic": Method(DYNAMIC),
    "weight-only": Method(WEIGHT_ONLY),
    "static": Method(STATIC),
    "static-best": Method(STATIC_BEST),
    "qat": Method(QAT),
}


def find(name: str) -> Method:
    """The Method of that name; raises InputError for an unknown name."""
    if name not in METHODS:
        raise InputError(f"unknown method '{name}'; {closest(name, METHODS)}")
    return METHODS[name]


def label(program: Program) -> str:
    """The method and bits of a Program, as in "static W4A8"."""
    quantized = program.weight_bits < 16
    return (
        f"{program.method} W{program.weight_bits}A{program.activation_bits}" if quantized else program.method
    )


def named(method: str, options: Options) -> str:
    """A method and its bits, as in "dynamic W4A8"."""
    return f"{method} {find(method).bits(options)}".rstrip()
