"""The ONNX Runtime engine: quantize/dequantize pairs in ONNX, which it fuses into its integer kernels."""

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zeropoint.engines.qdq import to_pairs
from zeropoint.files import atomic_write
from zeropoint.program import Program, export
from zeropoint.target import Target

TARGET = Target(
    name="onnxruntime",
    weighted=frozenset({"conv", "linear"}),
    inputs=frozenset({"add", "cat", "avg_pool", "mean"}),
    # A convolution runs in int8 only between quantizers, and takes a ReLU or clip in by its output's range.
    outputs=frozenset({"conv"}),
    fused=frozenset({"relu.default", "hardtanh.default", "clamp.default"}),
    adds_before_rounding=False,
)
PACKAGES = {"onnxruntime": "onnxruntime", "onnx": "onnx", "onnxscript": "onnxscript"}


def unsupported(method: str) -> str | None:
    """Why this engine cannot run a method on this processor, or None."""
    return "ONNX Runtime has no bfloat16 kernels for this processor" if method == "bf16" else None


def artefact_name(program: Program) -> str:
    """The ending of the artefact's file name."""
    return ".onnx"


def lower(program: Program, path: Path) -> None:
    """Writes the ``.onnx`` file."""
    exported = export(program, module=to_pairs(program))
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        converted = torch.onnx.export(exported, (), dynamo=True, verbose=False, optimize=False)
    assert converted is not None
    with atomic_write(path) as temporary:
        converted.save(temporary)


def load(path: Path, threads: int) -> Callable[..., tuple[Tensor, ...]]:
    """The artefact as a callable from tensors to a tuple of tensors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        feed: dict[str, Any] = {name: tensor.detach().numpy() for name, tensor in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(result) for result in session.run(None, feed))

    return run
