"""What ExecuTorch's XNNPACK delegate runs in int8: its placement rules."""

from zeropoint.numerics.scheme import Scheme
from zeropoint.targets.processor import Processor
from zeropoint.targets.target import AT_RUN_TIME, STATIC_GROUPS, Limit, Target

_LAYERS = frozenset({"conv", "conv1d", "conv_transpose", "linear"})
_OTHERS = frozenset({"add", "cat", "mean", "avg_pool"})
TARGET = Target(
    name="executorch",
    weighted=_LAYERS,
    inputs=_OTHERS | {"mul"},
    # Every operator of the delegate is int8 only between a dequantize and a quantize.
    outputs=_LAYERS | _OTHERS,
    outputs_anywhere=True,
    fused=frozenset({"relu"}),
    adds_before_rounding=False,
    means_of_space=True,
    activations=Scheme(symmetric=False),
    pools_sums=True,
    ranges_of_rows=True,
    # Without VNNI, XNNPACK's kernels widen bytes to 16 bits before they multiply.
    exact=True,
    limits=(
        *AT_RUN_TIME,
        STATIC_GROUPS,
        Limit(
            ("dynamic",),
            "weight_granularity",
            (None, "per-channel", "per-group"),
            "XNNPACK has no kernels for one scale of all weights there",
        ),
        Limit(("weight-only",), "weight_bits", (0,), "XNNPACK multiplies integer weights by integers alone"),
        Limit(
            ("dynamic", "static", "static-best", "qat"),
            "weight_symmetric",
            (None, True),
            "XNNPACK's weights have no zero points",
        ),
    ),
)


def target_for(processor: Processor) -> Target:
    """The placement rules, the same for all kinds of processor."""
    return TARGET
