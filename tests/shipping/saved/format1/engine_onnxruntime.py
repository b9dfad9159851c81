"""Runs the artefact of this folder on ONNX Runtime: needs onnxruntime and NumPy alone."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
Shapes = tuple[tuple[int, ...], ...]

INTEGER = {
    "QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger",
}  # fmt: skip
FLOAT = {"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}


def version() -> str:
    """That of the installed ONNX Runtime."""
    return str(onnxruntime.__version__)


def compiler(path: Path, manifest: dict[str, Any], threads: int) -> Callable[[Shapes | None], Run]:
    """A function that makes a session for given shapes of the inputs, or for all with None."""

    def compile(shapes: Shapes | None) -> Run:
        session = _session(path, manifest, threads, shapes)
        names = [port["name"] for port in manifest["inputs"]]

        def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            return list(session.run(None, dict(zip(names, arrays, strict=True))))

        return run

    return compile


def kernels(
    path: Path, manifest: dict[str, Any], threads: int, arrays: Sequence[np.ndarray]
) -> dict[str, int]:
    """How many layers with weights ran in integers and in float in a call, by ONNX Runtime's own profile."""
    shapes = tuple(array.shape for array in arrays)
    with tempfile.TemporaryDirectory() as folder:
        more = {"enable_profiling": True, "profile_file_prefix": f"{folder}/profile"}
        session = _session(path, manifest, threads, shapes, more)
        session.run(None, dict(zip([port["name"] for port in manifest["inputs"]], arrays, strict=True)))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = [
        event["args"]["op_name"]
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]
    return {"int8": sum(name in INTEGER for name in ran), "float": sum(name in FLOAT for name in ran)}


def _session(
    path: Path,
    manifest: dict[str, Any],
    threads: int,
    shapes: Shapes | None,
    more: dict[str, Any] | None = None,
) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    for name, value in (more or {}).items():
        setattr(options, name, value)
    for port, shape in zip(manifest["inputs"], shapes or (), strict=shapes is not None):
        for size, name in zip(shape, port["shape"], strict=True):
            if isinstance(name, str):  # a free size, which is fixed to be faster
                options.add_free_dimension_override_by_name(name, size)
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], **manifest["engine"]["settings"]
    )
