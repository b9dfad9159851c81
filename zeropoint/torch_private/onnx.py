"""PyTorch's exporter to ONNX, with its table of functions made once."""

import copy
import functools
from collections.abc import Callable
from typing import Any

from torch.export import ExportedProgram


def to_onnx(exported: ExportedProgram, functions: dict[Any, Callable[..., Any]]) -> Any:
    """What ``torch.onnx.export`` gives without optimizations, with ``functions`` for operators of one's own.

    It makes a table of how 500 operators are written in ONNX at every call, from the source of that many
    functions: 1.0 of the 1.5 s that a small network takes (AMD EPYC with AVX2, one thread, 2026-11-28).
    """
    from torch.onnx._constants import ONNX_DEFAULT_OPSET as OPSET
    from torch.onnx._internal.exporter._core import export

    registry = copy.copy(_registry(OPSET))
    registry.functions = {operator: list(written) for operator, written in registry.functions.items()}
    for operator, function in functions.items():
        registry.register_op(operator, function)
    return export(exported, registry=registry, verbose=False, optimize=False, opset_version=OPSET)


@functools.cache
def _registry(opset: int) -> Any:
    """How each operator is written in ONNX."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    return ONNXRegistry.from_torchlib(opset_version=opset)
