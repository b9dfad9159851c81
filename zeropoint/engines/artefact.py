"""Artefacts: the files that engines run, opened by their names alone."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zeropoint.engines import Runner, load_artefact
from zeropoint.engines import find as find_engine
from zeropoint.engines.torch import BATCH, PACKAGE_SUFFIX, package_metadata
from zeropoint.errors import InputError, first_line
from zeropoint.graph.program import at_batch
from zeropoint.graph.program import load as load_program
from zeropoint.targets.processor import warn_of

ENGINES = {
    ".onnx": "onnxruntime",
    ".openvino.xml": "openvino",
    f".torch{PACKAGE_SUFFIX}": "torch",
    ".torch.pt2": "torch",
}
"""The engine that runs a file, by the ending of its name."""

Input = tuple[list[int | None], torch.dtype]
"""Shape and type of an input; None is a size that is free."""


def engine_of(path: str | os.PathLike[str]) -> str | None:
    """The engine whose artefact ``path`` is by its name, or None where it is none."""
    name = Path(path).name
    return next((engine for ending, engine in ENGINES.items() if name.endswith(ending)), None)


def load(path: str | os.PathLike[str], threads: int | None = None) -> Runner:
    """A Runner on an artefact that ``compile`` or ``compare`` wrote; ``threads`` defaults to all cores.

    A compiled package of the torch engine is native code, which runs when it is loaded: load only your own.
    Raises InputError for a file that is missing, no artefact by its name, or damaged, and where its engine
    is not installed. Warns of one that was made for processors of another kind than this one.
    """
    path = Path(path)
    engine = engine_of(path)
    if engine is None:
        raise InputError(f"{path} is no engine's artefact; give a file that ends in {', '.join(ENGINES)}")
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    weights = path.with_suffix(".bin")
    if engine == "openvino" and not weights.is_file():
        raise InputError(f"no such file: {weights}, which holds the weights of {path}")
    try:
        warn_of(find_engine(engine).processor_of(path), str(path))
        return load_artefact(engine, path, threads)
    except InputError:
        raise
    except Exception as error:  # a damaged file may fail in any way
        reason = first_line(error)
        raise InputError(f"{engine} cannot load {path}: {reason}; compile the model again") from error


def example_inputs(runner: Runner, batch_size: int) -> tuple[Tensor, ...] | None:
    """Stand-ins of the shapes and types that the Runner's artefact takes; a free dimension 0 is the batch.

    None where the file does not tell: compiled packages of the torch engine do not, nor files with another
    free dimension. Raises InputError for a package that is compiled for batches of another size.
    """
    path = runner.artefact
    if path.name.endswith(PACKAGE_SUFFIX):
        _check_batch(path, batch_size)
        return None
    if runner.engine == "torch":
        return at_batch(load_program(path), batch_size).example_inputs
    inputs = []
    for sizes, dtype in _onnx_inputs(path) if runner.engine == "onnxruntime" else _openvino_inputs(path):
        shape = [batch_size if size is None and axis == 0 else size for axis, size in enumerate(sizes)]
        known = [size for size in shape if size is not None]
        if len(known) < len(shape):
            return None
        inputs.append(stand_in(known, dtype))
    return tuple(inputs)


def stand_in(shape: list[int], dtype: torch.dtype) -> Tensor:
    """A seeded input: standard normal, or zeros of a type that is no float."""
    if dtype.is_floating_point:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return torch.zeros(shape, dtype=dtype)


def _check_batch(path: Path, batch_size: int) -> None:
    """A package fills a batch of another size up to its own, or cuts it: its latency would be misread."""
    size = package_metadata(path).get(BATCH)
    if size and int(size) != batch_size:
        raise InputError(f"{path} is compiled for batches of {size}; give --batch-size {size}")


def _onnx_inputs(path: Path) -> list[Input]:
    import onnx

    inputs = []
    for value in onnx.load(path, load_external_data=False).graph.input:
        tensor = value.type.tensor_type
        sizes = [size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim]
        inputs.append((sizes, _dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))))
    return inputs


def _openvino_inputs(path: Path) -> list[Input]:
    import openvino  # the engine has imported it already, without its telemetry

    inputs = []
    for node in openvino.Core().read_model(path).inputs:
        sizes = [size.get_length() if size.is_static else None for size in node.get_partial_shape()]
        inputs.append((sizes, _dtype(node.element_type.to_dtype())))
    return inputs


def _dtype(numpy_type: np.dtype) -> torch.dtype:
    return torch.from_numpy(np.empty(0, numpy_type)).dtype
