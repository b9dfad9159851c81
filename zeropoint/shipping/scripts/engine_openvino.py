"""Runs the artefact of this folder on OpenVINO: needs openvino and NumPy alone."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Its telemetry reports imports over the network, from a process that it forks: as if it were not installed.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino  # noqa: E402

Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
Shapes = tuple[tuple[int, ...], ...]

# One for the process: after several, deleted in any order, a signal such as Ctrl-C is a segmentation fault.
CORE = openvino.Core()
LAYERS = {"Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul", "Gemm"}


def version() -> str:
    """That of the installed OpenVINO."""
    return str(openvino.get_version()).split("-")[0]


def compiler(path: Path, manifest: dict[str, Any], threads: int) -> Callable[[Shapes | None], Run]:
    """A function that compiles the artefact for given shapes of the inputs, or for all with None."""
    compile_for = _compiler(path, manifest, threads)

    def compile(shapes: Shapes | None) -> Run:
        request = compile_for(shapes).create_infer_request()

        def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            return list(request.infer(list(arrays), share_inputs=True).values())

        return run

    return compile


def kernels(
    path: Path, manifest: dict[str, Any], threads: int, arrays: Sequence[np.ndarray]
) -> dict[str, int]:
    """How many layers with weights run in integers and in float, by OpenVINO's compiled graph."""
    compiled = _compiler(path, manifest, threads)(tuple(array.shape for array in arrays))
    found = {"int8": 0, "float": 0}
    for kernel in compiled.get_runtime_model().get_ops():
        facts = {name: value.astype(str) for name, value in kernel.get_rt_info().items()}
        if facts.get("layerType") in LAYERS:
            is_float = facts["primitiveType"].endswith("_f32") and manifest["method"] != "dynamic"
            found["int8" if facts["runtimePrecision"] in ("u8", "i8") and not is_float else "float"] += 1
    return found


def _compiler(path: Path, manifest: dict[str, Any], threads: int) -> Callable[[Shapes | None], Any]:
    model = CORE.read_model(path, path.with_suffix(".bin"))
    free = [node.get_partial_shape() for node in model.inputs]
    settings = manifest["engine"]["settings"] | {"INFERENCE_NUM_THREADS": threads}

    def compile_for(shapes: Shapes | None) -> Any:
        try:
            model.reshape(dict(enumerate(free if shapes is None else map(list, shapes))))
            return CORE.compile_model(model, "CPU", settings)
        except RuntimeError:  # some recurrent layers compile with free sizes only
            model.reshape(dict(enumerate(free)))
            return CORE.compile_model(model, "CPU", settings)

    return compile_for
