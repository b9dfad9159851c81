"""Rewrites of an OpenVINO model that make its files smaller; each computes the same, by the same kernels."""

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from torch.fx import Node

from zeropoint.graph.operators import aten
from zeropoint.graph.packing import WORTH_HALVING

# From here on float weights are faster: of 768 to 768 features with 64 rows 1.40 ms for 1.39, with 128 rows
# 2.44 for 2.88 (AMD EPYC with AVX2, November 2026).
MANY_ROWS = 96


def is_product(node: Node) -> bool:
    """Whether a matrix product is lowered to OpenVINO's own, which takes all dimensions."""
    return node.target is aten.matmul.default and all(s.meta["val"].dim() > 1 for s in node.all_input_nodes)


def halve_weights(model: Any) -> None:
    """Int8 weights that four bits hold as int4, with a conversion to int8 behind them.

    OpenVINO folds it when it compiles: the kernels are the same, from half the bytes.
    """
    from openvino import Type
    from openvino.opset13 import constant, convert

    for node in [node for node in model.get_ops() if node.get_type_name() == "Constant"]:
        if node.get_element_type() != Type.i8:
            continue
        integers = node.get_data()
        if integers.size < WORTH_HALVING or integers.min() < -8 or integers.max() > 7:
            continue
        wide = convert(constant(integers, dtype=Type.i4), "i8")
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(wide.output(0))


def fold_weights(model: Any) -> None:
    """Has OpenVINO unpack the integer weights of matrix products of many rows when it compiles, for good.

    It multiplies integer weights by float inputs without unpacking them, which is faster for few rows alone.
    It does so where it finds a product with the scale, and not a division by its inverse.
    """
    from openvino.opset13 import constant, divide

    for node in [node for node in model.get_ops() if node.get_type_name() == "MatMul"]:
        source, weight = (node.input_value(position).get_node() for position in (0, 1))
        sizes = [size.get_length() if size.is_static else 1 for size in node.get_input_partial_shape(0)]
        is_scaled = weight.get_type_name() == "Multiply" and (
            weight.input_value(0).get_node().get_type_name() in ("Convert", "Subtract")
            and weight.input_value(1).get_node().get_type_name() == "Constant"
        )
        if is_scaled and source.get_type_name() != "FakeQuantize" and math.prod(sizes[:-1]) >= MANY_ROWS:
            scale = weight.input_value(1).get_node().get_data()
            unpacked = divide(weight.input_value(0), constant(1 / scale))
            node.input(1).replace_source_output(unpacked.output(0))


def share_ends(model: Any) -> None:
    """Has each quantizer's output range be the constants of its input's: a fifth of ShuffleNet's .xml."""
    for node in [node for node in model.get_ops() if node.get_type_name() == "FakeQuantize"]:
        for inward, outward in ((1, 3), (2, 4)):
            source, own = node.input_value(inward), node.input_value(outward)
            if any(end.get_node().get_type_name() != "Constant" for end in (source, own)):
                continue
            if (source.get_node().get_data() == own.get_node().get_data()).all():
                node.input(outward).replace_source_output(source)


def keep_zero_points(model: Any) -> None:
    """Lowers the range's end of each quantizer of values below zero by a ten thousandth of a step.

    On Arm OpenVINO 2026.4.1 cuts a zero point of 74.99999 to 74 where others round it, by which a layer's
    values are a step too low: 39 dB of 51 on digits/resnet. What it gives back is as before.
    """
    import numpy as np
    from openvino.opset13 import constant

    for node in [node for node in model.get_ops() if node.get_type_name() == "FakeQuantize"]:
        ends = [node.input_value(position).get_node() for position in (1, 2)]
        if any(end.get_type_name() != "Constant" or end.get_data().size > 1 for end in ends):
            continue
        low, high = (float(end.get_data().item()) for end in ends)
        if low < 0:
            step = (high - low) / (node.get_attributes()["levels"] - 1)
            moved = (ends[0].get_data() - 1e-4 * step).astype(np.float32)
            node.input(1).replace_source_output(constant(moved).output(0))


def without_indentation(path: Path) -> None:
    """Writes an ``.xml`` again on one line, a sixth smaller."""
    tree = ElementTree.parse(path)
    for element in tree.iter():
        element.text, element.tail = (element.text or "").strip(), None
    tree.write(path, xml_declaration=True, encoding="utf-8")
