"""The driver of rewrites says what fired, and where and why one was refused."""

import logging

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from zeropoint.engines.openvino.package import openvino
from zeropoint.engines.openvino.rewrites import REWRITES
from zeropoint.engines.openvino.rewrites import rewrite as rewrite_openvino
from zeropoint.engines.rewrites import Tried, chosen, tell


def silus() -> onnx.ModelProto:
    """Two products with a sigmoid, one of them of another value; and a large and a small int8 weight."""
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Mul", ["s", "x"], ["y"]),
        helper.make_node("DequantizeLinear", ["large", "scale"], ["l"]),
        helper.make_node("DequantizeLinear", ["small", "scale"], ["m"]),
        helper.make_node("Add", ["l", "m"], ["z"]),
    ]
    weights = {
        "large": np.ones((64, 32), np.int8),
        "small": np.ones((1, 32), np.int8),
        "scale": np.float32(1),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, [64, 32]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_onnx_rewrites_are_told_with_node_and_reason():
    from zeropoint.engines.onnxruntime.rewrites import rewrite

    tried = rewrite(ir.serde.deserialize_model(silus()))
    assert Tried("x * sigmoid(x) as QuickGelu", "y", None) in tried
    narrow = {one.node: one.reason for one in tried if "int4" in one.rewrite}
    assert narrow == {"large": None, "small": "only 32 weights"}


def test_openvino_rewrites_are_told_with_node_and_reason():
    package = openvino()
    ops = package.opset13
    x = ops.parameter([2, 8], package.Type.f32)
    limits = [ops.constant(np.float32(value)) for value in (-1.0, 1.0, -1.0, 2.0)]
    quantizer = ops.fake_quantize(x, *limits, 256)
    quantizer.set_friendly_name("quantizer")
    model = package.Model([ops.relu(quantizer)], [x])
    tried = rewrite_openvino(model, "any")
    assert {one.rewrite: one.reason for one in tried if one.node == "quantizer"} == {
        "limits of a quantizer's output from its input's": None,
        "lower limit of a quantizer a ten thousandth of a step lower": None,
        "limits of a quantizer for each column of a matrix as a product before it": (
            "its input has the same limits throughout"
        ),
    }
    sources = [quantizer.input_value(position).get_node() for position in range(1, 5)]
    assert sources[0].get_data().item() == pytest.approx(-1 - 1e-4 * 2 / 255)
    assert sources[2].get_data().item() == -1


@pytest.mark.parametrize(("processor", "count"), [("vnni", 13), ("avx2", 14), ("arm", 14), ("any", 15)])
def test_rewrites_are_for_kinds_of_processor(processor: str, count: int):
    assert len(chosen(REWRITES, processor)) == count


def test_what_was_tried_is_logged(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG, logger="zeropoint.engines.rewrites"):
        tell([Tried("a", "one", None), Tried("a", "two", "too small"), Tried("b", "one", None)])
    assert caplog.messages == [
        "a: fired 1 times, refused 1 times",
        "a: refused at two: too small",
        "b: fired 1 times, refused 0 times",
    ]
