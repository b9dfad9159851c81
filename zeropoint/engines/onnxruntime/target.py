"""What ONNX Runtime runs in int8: its placement rules."""

from zeropoint.targets.processor import Processor
from zeropoint.targets.target import AT_RUN_TIME, NO_GROUPS, Limit, Target

TARGET = Target(
    name="onnxruntime",
    weighted=frozenset({"conv", "conv1d", "conv3d", "linear"}),
    # Quantizers around concatenations and average pools cost 5% on ShuffleNetV2.
    inputs=frozenset({"add", "mul", "mean", "avg_pool"}),
    # A convolution runs in int8 only between quantizers. A ReLU or clip is fused as the output's range.
    outputs=frozenset({"conv", "conv1d", "conv3d", "mean", "avg_pool"}),
    fused=frozenset({"relu"}),
    adds_before_rounding=False,
    means_of_space=True,
    # 0.94 to 1.08 of the time, on ten networks that take them (AMD EPYC with VNNI, December 2026).
    floats_sums=True,
    # 0.97 to 1.01 of the time on nine networks, at up to 98 (AMD EPYC with VNNI, December 2026).
    least_intensity=100.0,
    pairs_across_places=True,
    ranges_of_tensors=True,
    limits=(
        *AT_RUN_TIME,
        Limit(("dynamic",), "weight_symmetric", (None, True), "it needs symmetric weights there"),
        NO_GROUPS,
    ),
)


def target_for(processor: Processor) -> Target:
    """The placement rules, the same for all kinds of processor."""
    return TARGET
