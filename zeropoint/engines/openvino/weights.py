"""Rewrites of weights in an OpenVINO model: smaller files, and weights unpacked when it is compiled."""

import math
from functools import partial
from typing import Any

from zeropoint.engines.openvino.nodes import constants, is_of_constants, read_instead, readers
from zeropoint.engines.rewrites import Rewrite
from zeropoint.graph.packing import WORTH_HALVING
from zeropoint.targets.processor import PROCESSORS

# From this number of rows float weights are faster: 768 to 768 features take 1.40 ms against 1.39 with 64
# rows, 2.44 against 2.88 with 128 rows (AMD EPYC with AVX2, November 2026).
MANY_ROWS = 96


def _int8_constant() -> Any:
    from openvino import Type
    from openvino.passes import WrapType, type_matches

    return WrapType("opset13.Constant", type_matches(Type.i8))


def _not_narrow(node: Any) -> str | None:
    integers = node.get_data()
    if integers.size < WORTH_HALVING:
        return f"only {integers.size} weights"
    return "more than four bits" if integers.min() < -8 or integers.max() > 7 else None


def _halve(node: Any) -> None:
    from openvino import Type
    from openvino.opset13 import constant, convert

    read_instead(node, convert(constant(node.get_data(), dtype=Type.i4), "i8"))


# Weights that are unpacked when the model is compiled.


def _scaled() -> Any:
    from openvino.passes import WrapType

    integers = WrapType(["opset13.Convert", "opset13.Subtract"])
    return WrapType("opset13.Multiply", [integers, _any_constant()])


def _scaled_product() -> Any:
    from openvino.passes import AnyInput, WrapType

    return WrapType("opset13.MatMul", [AnyInput(), _scaled()])


def _scaled_gates() -> Any:
    from openvino.passes import AnyInput, WrapType

    return WrapType("opset13.Reshape", [_scaled(), AnyInput()])


def _any_constant() -> Any:
    from openvino.passes import WrapType

    return WrapType("opset13.Constant")


def _few_rows(node: Any) -> str | None:
    if node.input_value(0).get_node().get_type_name() == "FakeQuantize":
        return "its input is quantized"
    (scale,) = constants(node.input_value(1).get_node(), 1)
    if scale is None:
        return "the scale is not the second factor"
    sizes = [size.get_length() if size.is_static else 1 for size in node.get_input_partial_shape(0)]
    rows = math.prod(sizes[:-1])
    return None if rows >= MANY_ROWS else f"{rows} rows"


def _divide(node: Any, position: int = 1) -> None:
    from openvino.opset13 import constant, divide

    weight = node.input_value(position).get_node()
    (scale,) = constants(weight, 1)
    unpacked = divide(weight.input_value(0), constant(1 / scale))
    node.input(position).replace_source_output(unpacked.output(0))


def _of_no_layer(node: Any) -> str | None:
    is_of_layer = any(reader.get_type_name().endswith("Sequence") for reader in readers(node))
    return None if is_of_layer else "no recurrent layer reads it"


def _not_of_weights(node: Any) -> str | None:
    return None if is_of_constants(node.input_value(0)) else "its input is no weight"


OF_WEIGHTS = (
    Rewrite(
        "integer weights of many rows divided by the inverse of their scale",
        _scaled_product,
        _few_rows,
        _divide,
        # OpenVINO multiplies integer weights by float inputs without unpacking them, which is faster for few
        # rows only. It looks for a product with the scale, and does not find a division.
        effect="2.44 ms, not 2.88, for 768 to 768 features and 128 rows (AMD EPYC with AVX2, November 2026)",
        processors=frozenset(name for name, kind in PROCESSORS.items() if kind.saturates),
    ),
    Rewrite(
        "integer weights that are multiplied by weights divided by the inverse of their scale",
        _scaled_product,
        _not_of_weights,
        _divide,
        effect="projected LSTMs compile: OpenVINO folds the product, and takes constant weights alone there",
    ),
    Rewrite(
        "integer weights of recurrent layers divided by the inverse of their scale",
        _scaled_gates,
        _of_no_layer,
        partial(_divide, position=0),
        effect="they compile beside quantized layers: OpenVINO keeps products with scales unfolded there",
    ),
    Rewrite(
        "int8 weights within four bits as int4, and a conversion",
        _int8_constant,
        _not_narrow,
        _halve,
        effect="half the bytes; OpenVINO folds the conversion when it compiles, the kernels are the same",
    ),
)
