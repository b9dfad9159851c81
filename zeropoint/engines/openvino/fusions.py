"""Rewrites that keep OpenVINO from putting into one kernel, or int8, what it then computes wrongly."""

from typing import Any

import numpy as np

from zeropoint.engines.openvino.nodes import array, is_of_constants, quantizer_before, read_instead, readers
from zeropoint.engines.rewrites import Rewrite


def _arithmetic() -> Any:
    from openvino.passes import WrapType

    return WrapType([f"opset13.{name}" for name in ("Multiply", "Divide", "Add", "Subtract")])


def _not_of_columns(node: Any) -> str | None:
    values = node.input_values()
    products = [value.get_node() for value in values if value.get_node().get_type_name() == "MatMul"]
    given = [one for one in map(array, values) if one is not None and one.size > 1]
    if len(products) != 1 or not given:
        return "it is no product, with a constant that is no number"
    rank = products[0].get_output_partial_shape(0).rank
    if rank.is_dynamic or rank.get_length() < max(3, given[0].ndim):
        return "it is of matrices alone"
    is_layer = any(is_of_constants(value) for value in products[0].input_values())
    return "one side of the product is a weight" if is_layer else None


def _with_another_axis(node: Any) -> None:
    from openvino import opset13

    axis = opset13.constant([0])
    values = [
        opset13.unsqueeze(value, axis).output(0) if array(value) is None else value
        for value in node.input_values()
    ]
    wide = getattr(opset13, node.get_type_name().lower())(*values)
    wide.set_friendly_name(node.get_friendly_name())
    read_instead(node, opset13.squeeze(wide, axis))


def _factor() -> Any:
    from openvino.passes import WrapType

    return WrapType(["opset13.Multiply", "opset13.Divide"])


def _not_negative(node: Any) -> str | None:
    factors, rank = array(node.input_value(1)), node.get_output_partial_shape(0).rank
    if factors is None or factors.size == 1 or rank.is_dynamic or factors.ndim > rank.get_length():
        return "the other operand is a number or no constant"
    if is_of_constants(node.input_value(0)):
        return "it is of a weight"
    if all(reader.get_type_name() != "FakeQuantize" for reader in readers(node)):
        return "no quantizer reads it"
    return None if factors.min() < 0 else "no factor is negative"


def _transpose() -> Any:
    from openvino.passes import WrapType

    return WrapType("opset13.Transpose")


def _quantizers_before(node: Any) -> list[Any]:
    """The quantizers of one range that a node reads, one after the other, the nearest first."""
    found: list[Any] = []
    source = node.input_value(0).get_node()
    while source.get_type_name() == "FakeQuantize":
        limits = [array(source.input_value(position)) for position in range(1, 5)]
        if any(limit is None or limit.size > 1 for limit in limits):
            break
        found.append(source)
        source = source.input_value(0).get_node()
    return found


def _transpositions(quantizer: Any) -> list[Any]:
    """Those that read the values of a quantizer, or of one that reads it."""
    found = []
    for reader in readers(quantizer):
        if reader.get_type_name() == "Transpose":
            found.append(reader)
        elif reader.get_type_name() == "FakeQuantize":
            found += _transpositions(reader)
    return found


def _read_in_layers_alone(node: Any) -> str | None:
    quantizers = _quantizers_before(node)
    if not quantizers:
        return "it reads no quantized values"
    turned = _transpositions(quantizers[-1])
    kinds = {reader.get_type_name() for one in turned for reader in readers(one)}
    return None if kinds & _ELEMENTWISE else "no elementwise operator reads the values"


_ELEMENTWISE = {"Add", "Greater", "Less", "Maximum", "Minimum", "Multiply", "Select", "Subtract"}


def _quantize_behind(node: Any) -> None:
    from openvino.opset13 import fake_quantize, transpose

    for turned in _transpositions(_quantizers_before(node)[-1]):
        quantizers = _quantizers_before(turned)
        value = transpose(quantizers[-1].input_value(0), turned.input_value(1))
        for one in quantizers[::-1]:
            limits = [one.input_value(position) for position in range(1, 5)]
            value = fake_quantize(value, *limits, one.get_attributes()["levels"])
            value.set_friendly_name(f"{one.get_friendly_name()}/{turned.get_friendly_name()}")
        read_instead(turned, value)


def _mean_of_windows() -> Any:
    from openvino.passes import WrapType

    return WrapType(["opset13.AvgPool", "opset14.AvgPool"])


def _of_no_padding(node: Any) -> str | None:
    about = node.get_attributes()
    if about["exclude-pad"] or not any([*about["pads_begin"], *about["pads_end"]]):
        return "it counts no padding"
    quantizer = quantizer_before(node.input_value(0))
    if quantizer is None:
        return "it reads no quantized values"
    low = array(quantizer.input_value(1))
    return "its zero point is 0" if low is not None and low.min() >= 0 else None


def _read_in_float(node: Any) -> None:
    from openvino.opset13 import constant, maximum

    least = constant(np.finfo(np.float32).min)
    node.input(0).replace_source_output(maximum(node.input_value(0), least).output(0))


def _conversion() -> Any:
    from openvino.passes import WrapType

    return WrapType("opset13.Convert")


def _not_of_truth(node: Any) -> str | None:
    from openvino import Type

    is_float = node.get_output_element_type(0) == Type.f32
    return None if is_float and node.get_input_element_type(0) == Type.boolean else "not from truth to float"


def _select_instead(node: Any) -> None:
    from openvino.opset13 import constant, select

    chosen = select(node.input_value(0), constant(np.float32(1)), constant(np.float32(0)))
    chosen.set_friendly_name(node.get_friendly_name())
    read_instead(node, chosen)


OF_FUSIONS = (
    Rewrite(
        "product of two values times or plus a constant for each column, with another axis",
        _arithmetic,
        _not_of_columns,
        _with_another_axis,
        # OpenVINO 2026.4.1 takes it into the kernel of the product, which is wrong for several items.
        effect="144 dB to the simulation, not 3, of a scaled product of a batch",
    ),
    Rewrite(
        "negative factors for each channel in front of a quantizer, with another axis",
        _factor,
        _not_negative,
        _with_another_axis,
        # OpenVINO 2026.4.1 makes limits of the quantizer of them, of which the lower one is the larger.
        effect="140 dB to the simulation, not -11, of scaled maxima of windows",
    ),
    Rewrite(
        "quantizer behind a transposition that an elementwise operator reads",
        _transpose,
        _read_in_layers_alone,
        _quantize_behind,
        # OpenVINO 2026.4.1 reads the bytes in the order that they had before.
        effect="68 dB to the simulation, not 7, of a gate behind a layer norm of images",
    ),
    Rewrite(
        "average pooling of quantized values with zeros beside them in float",
        _mean_of_windows,
        _of_no_padding,
        _read_in_float,
        # The int8 kernel of OpenVINO 2026.4.1 has zeros for zero points there; nothing moves a dequantization
        # over a maximum.
        effect="144 dB to the simulation, not -6, of the mean of windows of halves that change places",
    ),
    Rewrite(
        "truth values as a choice of 1 and 0",
        _conversion,
        _not_of_truth,
        _select_instead,
        # The low-precision pass of OpenVINO 2026.4.1 takes their conversion, a difference and a product for
        # a dequantization: of scores + (1 - mask) * -1e6 it adds -1e6 first, and they lose their digits.
        effect="131 dB to the simulation, not 32, of attention with such a mask",
    ),
)
