"""What the PyTorch compiler runs in int8: its placement rules."""

from zeropoint.targets.processor import Processor
from zeropoint.targets.target import AT_RUN_TIME, NO_GROUPS, X86_ALONE, Limit, Target
from zeropoint.torch_private.operators import has_bfloat16_kernels

# The kernels ignore the zero points of weights: -3 dB of SQNR, 39 dB in the simulation.
AFFINE_WRONG = "PyTorch's int8 kernels are wrong for affine weights"
TARGET = Target(
    name="torch",
    weighted=frozenset({"conv", "conv1d", "linear"}),
    # The compiler has no int8 addition, but reading a shortcut in int8 is a quarter of the memory traffic: 8%
    # on ResNet-50.
    # Concatenating and splitting channels as integers makes ShuffleNetV2 30% faster.
    inputs=frozenset({"add", "cat"}),
    # A product with constants is part of the loop before it: an ALBERT with one in front of every linear
    # layer takes 1.03 of the time (AMD EPYC with VNNI, November 2026).
    multiplies_free=True,
    # With float sums ResNet-18 and ResNet-50 take 1.05 of the time, and 11 other networks of small images
    # 0.93 to 1.01 (AMD EPYC with VNNI, November 2026).
    floats_sums=True,
    ranges_of_tensors=True,
    limits=(
        *AT_RUN_TIME,
        NO_GROUPS,
        X86_ALONE,
        Limit(
            ("dynamic", "static", "static-best", "qat"),
            "weight_symmetric",
            (None, True),
            AFFINE_WRONG,
        ),
    ),
)


def unsupported(method: str) -> str | None:
    """Why PyTorch cannot run a method on this machine, or None."""
    if method == "bf16" and not has_bfloat16_kernels():
        return "this processor has no bfloat16 instructions that PyTorch uses"
    return None


def target_for(processor: Processor) -> Target:
    """The placement rules, the same for all kinds of processor."""
    return TARGET
