"""Rewrites of an OpenVINO model: smaller files, kernels that are faster or right; each computes the same."""

import math
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.fx import Node

from zeropoint.engines.rewrites import Rewrite, Tried, chosen
from zeropoint.graph.operators import aten
from zeropoint.graph.packing import WORTH_HALVING
from zeropoint.targets.processor import PROCESSORS

# From this number of rows float weights are faster: 768 to 768 features take 1.40 ms against 1.39 with 64
# rows, 2.44 against 2.88 with 128 rows (AMD EPYC with AVX2, November 2026).
MANY_ROWS = 96


def rewrite(model: Any, processor: str) -> list[Tried]:
    """Applies the rewrites for a kind of processor with OpenVINO's matchers, in place; what was tried."""
    from openvino.passes import Manager, Matcher, MatcherPass

    class Pass(MatcherPass):  # type: ignore[misc, unused-ignore]
        def __init__(self, one: Rewrite) -> None:
            super().__init__()

            def rewrite_root(matcher: Any) -> bool:
                node = matcher.get_match_root()
                reason = one.check(node)
                tried.append(Tried(one.name, node.get_friendly_name(), reason))
                if reason is None:
                    one.put(node)
                return reason is None

            self.register_matcher(Matcher(one.pattern(), one.name), rewrite_root)

    tried: list[Tried] = []
    passes, manager = [Pass(one) for one in chosen(REWRITES, processor)], Manager()
    for each in passes:
        manager.register_pass(each)
    manager.run_passes(model)
    return tried


def _constants(node: Any, *positions: int) -> list[Any]:
    """The arrays of a node's inputs at these positions, None for an input that is not constant."""
    sources = [node.input_value(position).get_node() for position in positions]
    return [one.get_data() if one.get_type_name() == "Constant" else None for one in sources]


def _read_instead(node: Any, other: Any) -> None:
    """Has all that read a node read another one."""
    for reader in list(node.output(0).get_target_inputs()):
        reader.replace_source_output(other.output(0))


# Weights of four bits.


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

    _read_instead(node, convert(constant(node.get_data(), dtype=Type.i4), "i8"))


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
    (scale,) = _constants(node.input_value(1).get_node(), 1)
    if scale is None:
        return "the scale is not the second factor"
    sizes = [size.get_length() if size.is_static else 1 for size in node.get_input_partial_shape(0)]
    rows = math.prod(sizes[:-1])
    return None if rows >= MANY_ROWS else f"{rows} rows"


def _divide(node: Any, position: int = 1) -> None:
    from openvino.opset13 import constant, divide

    weight = node.input_value(position).get_node()
    (scale,) = _constants(weight, 1)
    unpacked = divide(weight.input_value(0), constant(1 / scale))
    node.input(position).replace_source_output(unpacked.output(0))


def _of_no_layer(node: Any) -> str | None:
    readers = [reader.get_node().get_type_name() for reader in node.output(0).get_target_inputs()]
    return None if any(name.endswith("Sequence") for name in readers) else "no recurrent layer reads it"


def _not_of_weights(node: Any) -> str | None:
    waiting = [node.input_value(0).get_node()]
    while waiting:
        part = waiting.pop()
        if part.get_type_name() == "Parameter":
            return "its input is no weight"
        waiting += [value.get_node() for value in part.input_values()]
    return None


# Ranges of quantizers.


def _quantizer() -> Any:
    from openvino.passes import WrapType

    return WrapType("opset13.FakeQuantize")


def _equal_limits(node: Any) -> list[tuple[int, int]]:
    """The positions of a limit of the input and of the output that have equal values."""
    equal = []
    for inward, outward in ((1, 3), (2, 4)):
        one, other = _constants(node, inward, outward)
        if one is not None and other is not None and (one == other).all():
            equal.append((inward, outward))
    return equal


def _no_equal_limits(node: Any) -> str | None:
    return None if _equal_limits(node) else "its ranges differ or are not constant"


def _share(node: Any) -> None:
    for inward, outward in _equal_limits(node):
        node.input(outward).replace_source_output(node.input_value(inward))


def _no_zero_point(node: Any) -> str | None:
    limits = _constants(node, 1, 2)
    if any(limit is None or limit.size > 1 for limit in limits):
        return "its range is not one constant"
    return None if float(limits[0].item()) < 0 else "its zero point is 0"


def _lower_limit(node: Any) -> None:
    from openvino.opset13 import constant

    low, high = _constants(node, 1, 2)
    step = (float(high.item()) - float(low.item())) / (node.get_attributes()["levels"] - 1)
    node.input(1).replace_source_output(constant((low - 1e-4 * step).astype(np.float32)).output(0))


def _no_limits_of_columns(node: Any) -> str | None:
    limits = _constants(node, 1, 2, 3, 4)
    rank = node.get_output_partial_shape(0).rank
    if rank.is_dynamic or rank.get_length() != 2 or any(limit is None for limit in limits):
        return "it is of no matrix, or its limits are not constant"
    if any(limit.size > 1 for limit in limits[2:]):
        return "its output has limits for each column"
    return None if any(limit.size > 1 for limit in limits[:2]) else "its input has the same limits throughout"


def _scale_before(node: Any) -> None:
    from openvino.opset13 import add, constant, divide, fake_quantize

    low, high, lowest, highest = _constants(node, 1, 2, 3, 4)
    divisor = (high - low) / (highest - lowest)
    value = divide(node.input_value(0), constant(divisor.astype(np.float32)))
    offset = lowest - low / divisor
    if np.abs(offset).max() > 1e-6 * (highest - lowest).max():
        value = add(value, constant(offset.astype(np.float32)))
    ends = constant(lowest), constant(highest)
    result = fake_quantize(value, *ends, *ends, node.get_attributes()["levels"])
    result.set_friendly_name(node.get_friendly_name())
    _read_instead(node, result)


# Reductions over tokens.


def _reduction() -> Any:
    from openvino.passes import WrapType

    return WrapType([f"opset13.{name}" for name in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")])


def _not_over_tokens(node: Any) -> str | None:
    if node.get_attributes()["keep_dims"]:
        return "it keeps the axes"
    (axes,), rank = _constants(node, 1), node.input_value(0).get_partial_shape().rank
    if axes is None or rank.is_dynamic:
        return "its axes are not known"
    count = rank.get_length()
    is_image = count > 3 and all(axis % count > 1 for axis in axes.flatten())
    is_extreme = node.get_type_name() in ("ReduceMax", "ReduceMin")
    return "it is a mean or sum over the places of an image" if is_image and not is_extreme else None


def _keep_axes(node: Any) -> None:
    from openvino import opset13

    reduce = {
        "ReduceMean": opset13.reduce_mean,
        "ReduceSum": opset13.reduce_sum,
        "ReduceMax": opset13.reduce_max,
        "ReduceMin": opset13.reduce_min,
    }[node.get_type_name()]
    kept = reduce(node.input_value(0), node.input_value(1), keep_dims=True)
    kept.set_friendly_name(node.get_friendly_name())
    _read_instead(node, opset13.squeeze(kept, node.input_value(1)))


REWRITES = (
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
    Rewrite(
        "reduction that keeps its axes, and drops them afterwards",
        _reduction,
        _not_over_tokens,
        _keep_axes,
        # The low-precision pass of OpenVINO 2026.4.1 takes a product with a constant before it, as by a scale
        # for each channel, for a dequantization, and moves it behind the mean wrongly. A maximum over tokens
        # is wrong with an activation and a quantizer in its kernel.
        effect="36 dB, not 17, of ResMLP, whose mean over tokens a quantizer reads",
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


def without_indentation(path: Path) -> None:
    """Writes an ``.xml`` again on one line, a sixth smaller."""
    tree = ElementTree.parse(path)
    for element in tree.iter():
        element.text, element.tail = (element.text or "").strip(), None
    tree.write(path, xml_declaration=True, encoding="utf-8")


def is_product(node: Node) -> bool:
    """Whether a matrix product is lowered to OpenVINO's own, which takes all dimensions."""
    return node.target is aten.matmul.default and all(s.meta["val"].dim() > 1 for s in node.all_input_nodes)
