"""The roofline: the multiply-accumulates of a network, and this machine's int8 peak."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

SIZE = 2048  # rows and columns of the matrices: 4 MB of weights, large enough to reach the peak
MACS = SIZE**3


def macs(network: nn.Module, inputs: Tensor) -> int:
    """The multiply-accumulates of one call: convolutions and matrix products, attention included."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not know its operator
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            network(inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2


def products(threads: int) -> dict[str, Callable[[], object]]:
    """The product of two int8 matrices of ``SIZE`` on each engine, unsigned by signed as in networks."""
    generator = np.random.default_rng(0)
    left = generator.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
    right = generator.integers(-127, 128, (SIZE, SIZE), dtype=np.int8)
    makers = {"torch": _torch, "onnxruntime": _onnxruntime, "openvino": _openvino}
    return {f"int8 product, {name}": make(left, right, threads) for name, make in makers.items()}


def _torch(left: np.ndarray, right: np.ndarray, threads: int) -> Callable[[], object]:
    inputs, operators = torch.from_numpy(left), torch.ops.onednn
    weight = operators.qlinear_prepack(torch.from_numpy(right), [SIZE, SIZE])
    scales, zeros = torch.full((SIZE,), 1e-4), torch.zeros(SIZE, dtype=torch.int32)

    def run() -> Tensor:
        return operators.qlinear_pointwise(
            inputs, 1.0, 0, weight, scales, zeros, None, 1.0, 0, torch.uint8, "none", [], ""
        )

    return run


def _onnxruntime(left: np.ndarray, right: np.ndarray, threads: int) -> Callable[[], object]:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "a_scale": np.float32(1),
        "a_zero": np.uint8(0),
        "b": right,
        "b_scale": np.full(SIZE, 1e-4, np.float32),
        "b_zero": np.zeros(SIZE, np.int8),
        "y_scale": np.float32(1),
        "y_zero": np.uint8(0),
    }
    names = ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"]
    graph = helper.make_graph(
        [helper.make_node("QLinearMatMul", names, ["y"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [SIZE, SIZE])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"a": left})


def _openvino(left: np.ndarray, right: np.ndarray, threads: int) -> Callable[[], object]:
    """OpenVINO has int8 products only between fake quantizers: the input is float32."""
    import openvino
    from openvino import opset13 as op

    inputs = op.parameter([SIZE, SIZE], np.float32)
    quantized = op.fake_quantize(inputs, np.float32(0), np.float32(255), np.float32(0), np.float32(255), 256)
    weight = op.multiply(op.convert(op.constant(right), "f32"), np.full((SIZE, 1), 1e-4, np.float32))
    product = op.matmul(quantized, weight, False, True)
    configuration = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    model = openvino.Model([product], [inputs])
    request = openvino.Core().compile_model(model, "CPU", configuration).create_infer_request()
    values = left.astype(np.float32)
    return lambda: request.infer([values], share_inputs=True, share_outputs=True)
