"""What OpenVINO runs in int8: its placement rules."""

import dataclasses

from zeropoint.targets.processor import Processor
from zeropoint.targets.target import AT_RUN_TIME, Target

# Inputs of linear layers with integer weights are quantized at run time in groups of this many, with VNNI.
DYNAMIC_GROUP = 32

TARGET = Target(
    name="openvino",
    weighted=frozenset({"conv", "conv1d", "conv3d", "conv_transpose", "linear"}),
    # Quantizers around means cost 2 to 3% on MobileNetV3 and EfficientNetV2-S. Quantizers around
    # concatenations gain 1% on ShuffleNetV2. Attention in int8 gains 10 to 15% on ViT-B/16 and a BERT-base
    # encoder.
    inputs=frozenset({"add", "cat", "product"}),
    # OpenVINO fuses an addition into a convolution if both operands are quantized, not if one is float: 1 to
    # 2% on MobileNetV2 and MobileNetV3.
    adds_before_rounding=False,
    # In a fused addition the operand's own quantizer clips and does not round. With the simulation doing the
    # same, ResNet-20 has the simulation's class for 99.75% of the images, without it for 99.4%.
    cuts_before_adding=True,
    # A product with constants is part of the quantizer behind it: an ALBERT with one in front of every linear
    # layer takes 0.97 to 0.98 of the time (AMD EPYC with VNNI, November 2026).
    multiplies_free=True,
    # Sums in float take 0.89 to 1.04 of the time of int8 ones in eleven networks of small images, and 1.14 in
    # PoolFormer (AMD EPYC with VNNI, November 2026).
    floats_sums=True,
    # If the last sum stays float, its other operand becomes float, too: 1.5% of ResNet-50.
    pools_sums=True,
    # OpenVINO takes a zero point of 128 for signed values, and a linear layer then takes 18% longer.
    zero_in_middle=False,
    # OpenVINO's low-precision pass moves a dequantization after a maximum over axes if its input has no
    # quantizer of its own.
    quantizes_extremes=True,
    run_time_group=DYNAMIC_GROUP,
    limits=AT_RUN_TIME,
)

# Products of two activations are slower in int8 than in float without VNNI, 0.66 ms against 0.51 (3 heads of
# 197 tokens and 64 channels) and 0.95 against 0.57 (12 heads of 128 tokens and 64 channels), and they
# saturate. Linear layers are never faster with int8 inputs than with float inputs: 768 to 3072 features take
# 0.79 ms against 0.47 with one row, 1.58 against 1.42 with 8 rows, 8.4 against 7.8 with 128 rows; float32
# weights take 0.86, 1.67 and 7.9 (AMD EPYC with AVX2, November 2026).
WITHOUT_VNNI = dataclasses.replace(
    TARGET,
    inputs=TARGET.inputs - {"product"},
    weights_alone=frozenset({"linear"}),
    multiplies_free=False,
    run_time_group=None,
)


def target_for(processor: Processor) -> Target:
    """The placement rules for a kind of processor."""
    if processor.saturates:
        return WITHOUT_VNNI
    return dataclasses.replace(TARGET, run_time_group=None) if processor.name == "arm" else TARGET
