"""Runs an artefact without zeropoint and torch: ``run_artefact.py ARTEFACT INPUTS.npz OUTPUTS.npz``.

The arrays of the ``.npz`` files are in the order of the inputs and outputs. Engines are set up as zeropoint
does.
"""

import sys

import numpy as np


def onnxruntime(path: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
    )
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


def openvino(path: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of OpenVINO."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # as if it were not installed
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape({number: list(array.shape) for number, array in enumerate(inputs)})
    configuration = {
        "INFERENCE_NUM_THREADS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    results = core.compile_model(model, "CPU", configuration).create_infer_request().infer(inputs)
    return list(results.values())


def main(artefact: str, source: str, destination: str) -> None:
    """Reads the inputs and writes the outputs."""
    with np.load(source) as arrays:
        inputs = [arrays[name] for name in arrays.files]
    run = onnxruntime if artefact.endswith(".onnx") else openvino
    np.savez(destination, *run(artefact, inputs))


if __name__ == "__main__":
    main(*sys.argv[1:])
