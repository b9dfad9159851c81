"""Rewrites of ranges in an OpenVINO model: of quantizers, and of what they quantized."""

from typing import Any

import numpy as np

from zeropoint.engines.openvino.nodes import constants, quantizer_before, read_instead
from zeropoint.engines.rewrites import Rewrite


def _quantizer() -> Any:
    from openvino.passes import WrapType

    return WrapType("opset13.FakeQuantize")


def _equal_limits(node: Any) -> list[tuple[int, int]]:
    """The positions of a limit of the input and of the output that have equal values."""
    equal = []
    for inward, outward in ((1, 3), (2, 4)):
        one, other = constants(node, inward, outward)
        if one is not None and other is not None and (one == other).all():
            equal.append((inward, outward))
    return equal


def _no_equal_limits(node: Any) -> str | None:
    return None if _equal_limits(node) else "its ranges differ or are not constant"


def _share(node: Any) -> None:
    for inward, outward in _equal_limits(node):
        node.input(outward).replace_source_output(node.input_value(inward))


def _no_zero_point(node: Any) -> str | None:
    limits = constants(node, 1, 2)
    if any(limit is None or limit.size > 1 for limit in limits):
        return "its range is not one constant"
    return None if float(limits[0].item()) < 0 else "its zero point is 0"


def _lower_limit(node: Any) -> None:
    from openvino.opset13 import constant

    low, high = constants(node, 1, 2)
    step = (float(high.item()) - float(low.item())) / (node.get_attributes()["levels"] - 1)
    node.input(1).replace_source_output(constant((low - 1e-4 * step).astype(np.float32)).output(0))


def _no_limits_of_columns(node: Any) -> str | None:
    limits = constants(node, 1, 2, 3, 4)
    rank = node.get_output_partial_shape(0).rank
    if rank.is_dynamic or rank.get_length() != 2 or any(limit is None for limit in limits):
        return "it is of no matrix, or its limits are not constant"
    if any(limit.size > 1 for limit in limits[2:]):
        return "its output has limits for each column"
    return None if any(limit.size > 1 for limit in limits[:2]) else "its input has the same limits throughout"


def _scale_before(node: Any) -> None:
    from openvino.opset13 import add, constant, divide, fake_quantize

    low, high, lowest, highest = constants(node, 1, 2, 3, 4)
    divisor = (high - low) / (highest - lowest)
    value = divide(node.input_value(0), constant(divisor.astype(np.float32)))
    offset = lowest - low / divisor
    if np.abs(offset).max() > 1e-6 * (highest - lowest).max():
        value = add(value, constant(offset.astype(np.float32)))
    ends = constant(lowest), constant(highest)
    result = fake_quantize(value, *ends, *ends, node.get_attributes()["levels"])
    result.set_friendly_name(node.get_friendly_name())
    read_instead(node, result)


# Limits of values that were quantized.


def _limited() -> Any:
    from openvino.passes import WrapType

    return WrapType(["opset13.Clamp", "opset13.Minimum"])


def _limits(node: Any) -> tuple[Any, float, float] | None:
    """What a Clamp, or a Minimum of a Maximum, limits, and the limits; None if these are no numbers."""
    if node.get_type_name() == "Clamp":
        return node.input_value(0), *(node.get_attributes()[name] for name in ("min", "max"))
    inner = node.input_value(0).get_node()
    if inner.get_type_name() != "Maximum":
        return None
    (low,), (high,) = constants(inner, 1), constants(node, 1)
    if low is None or high is None or low.size > 1 or high.size > 1:
        return None
    return inner.input_value(0), low.item(), high.item()


def _not_of_quantized(node: Any) -> str | None:
    limits = _limits(node)
    if limits is None:
        return "it has no two limits that are numbers"
    if quantizer_before(limits[0]) is None:
        return "it reads no quantized values"
    shape = node.get_output_partial_shape(0)
    return None if shape.rank.is_static and _last_known(shape) is not None else "no size of it is known"


def _last_known(shape: Any) -> int | None:
    """The number of axes from the end up to one of a known size."""
    sizes = [size.get_length() if size.is_static else 0 for size in shape][::-1]
    return next((number for number, size in enumerate(sizes, 1) if size > 1), None)


def _limit_in_float(node: Any) -> None:
    from openvino.opset13 import constant, maximum, minimum

    found: Any = _limits(node)
    source, *limits = found
    shape = node.get_output_partial_shape(0)
    axes = _last_known(shape) or 1
    # A limit for each place of an axis, since OpenVINO makes a Clamp again of single ones.
    sizes = [shape[len(shape) - axes].get_length(), *[1] * (axes - 1)]
    low, high = (constant(np.full(sizes, limit, np.float32)) for limit in limits)
    limited = minimum(maximum(source, low), high)
    limited.set_friendly_name(node.get_friendly_name())
    read_instead(node, limited)


OF_RANGES = (
    Rewrite(
        "limits of values that were quantized before, as a maximum and a minimum",
        _limited,
        _not_of_quantized,
        _limit_in_float,
        # The low-precision pass of OpenVINO 2026.4.1 limits the integers, and rounds the limits to them.
        effect="130 dB to the simulation, not 24, of a limited concatenation",
    ),
    Rewrite(
        "limits of a quantizer for each column of a matrix as a product before it",
        _quantizer,
        _no_limits_of_columns,
        _scale_before,
        # OpenVINO 2026.4.1 makes such limits of a product or sum with constants, and reads beyond them.
        effect="142 dB to the simulation, not noise, of attentive statistics pooling",
    ),
    Rewrite(
        "limits of a quantizer's output from its input's",
        _quantizer,
        _no_equal_limits,
        _share,
        effect="a fifth of ShuffleNet's .xml",
    ),
    Rewrite(
        "lower limit of a quantizer a ten thousandth of a step lower",
        _quantizer,
        _no_zero_point,
        _lower_limit,
        # On Arm OpenVINO 2026.4.1 truncates a zero point of 74.99999 to 74, other processors round it.
        effect="51 dB, not 39 dB, on digits/resnet on Arm: a layer's values were a step too low",
        processors=frozenset({"arm", "any"}),
    ),
)
