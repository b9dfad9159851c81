"""Size: of a saved model on disk, and of a Program's parameters by themselves."""

import os
from pathlib import Path

from zeropoint.errors import InputError
from zeropoint.graph import edits as fx
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import quantizers


def on_disk(path: str | os.PathLike[str]) -> int:
    """The bytes of a file, or of all files in a folder.

    An OpenVINO ``.xml`` counts the ``.bin`` that holds its weights; an ``.onnx`` counts its external data,
    under the names that exporters use. Raises InputError where there is nothing at ``path``.
    """
    path = Path(path)
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if not path.is_file():
        raise InputError(f"no file or folder at {path}: give the path of a saved model")
    beside: list[Path] = []
    if path.suffix == ".xml":
        beside = [path.with_suffix(".bin")]
    elif path.suffix == ".onnx":
        beside = [path.with_name(path.name + ".data"), path.with_name(path.name + "_data")]
    return sum(file.stat().st_size for file in (path, *beside) if file.is_file())


def parameter_bytes(program: Program) -> int:
    """The bytes that the Program's tensors need at their bits: integer weights with scales, all else whole.

    A symmetric quantizer's zero points are all the same and cost nothing.
    """
    module = program.module
    total = sum(fx.tensor_of(module, node).nbytes for node in module.graph.nodes if node.op == "get_attr")
    for quantizer in quantizers(module):
        if quantizer.is_weight:
            weight = fx.tensor_of(module, quantizer.source)
            total += -(-weight.numel() * quantizer.scheme.bits // 8) - weight.nbytes
            if (
                quantizer.scheme.granularity == "per-tensor"
            ):  # its parameters are arguments, not tensors of the graph
                total += quantizer.scale.nbytes + quantizer.zero_point.nbytes
            if quantizer.scheme.symmetric:
                total -= quantizer.zero_point.nbytes
    return total
