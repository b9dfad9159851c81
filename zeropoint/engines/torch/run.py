"""Running artefacts on PyTorch: saved Programs and compiled packages."""

import json
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zeropoint.engines.engine import KEPT, PROCESSOR, SIGNATURE, Run
from zeropoint.errors import InputError
from zeropoint.graph import archive
from zeropoint.graph.operators import family, weighted
from zeropoint.graph.program import Program, at_batch, flat_tensors
from zeropoint.graph.program import load as load_program
from zeropoint.torch_private.compiler import load_package
from zeropoint.torch_private.compiler import package_metadata as metadata_of

PROGRAM_ENDING, PACKAGE_ENDING = ".torch.pt2", ".torch.aoti.pt2"
KERNELS = "kernels.json"  # in a package: the kernels that it calls, in order
# Keys of a package's metadata: the batch size that it is compiled for, the shapes of its inputs, and the axis
# of the batch of each output.
BATCH, SHAPES, AXES = "zeropoint_batch", "zeropoint_shapes", "zeropoint_axes"


def files(path: Path) -> tuple[Path, ...]:
    """The file, which holds everything."""
    return (path,)


def load(path: Path, threads: int, kept: int = KEPT) -> Run:
    """The artefact as a callable from tensors to a tuple of tensors; a package takes one shape anyhow."""
    if path.name.endswith(PACKAGE_ENDING):
        package = load_package(path)
        known = package.loader.get_metadata()
        batch = known.get(BATCH)
        call = of_shapes(
            _in_batches(package, int(batch), json.loads(known.get(AXES, "[]"))) if batch else package, known
        )
    else:
        call = load_program(path).module

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            # A package does not check strides: its inputs have to be laid out as at compilation.
            return flat_tensors(call(*(tensor.contiguous() for tensor in inputs)))

    return run


def damage(path: Path) -> str | None:
    """What is wrong with the members of the archive by their digests."""
    try:
        found = archive.members(path)
        if archive.DIGESTS in found:
            archive.check_digests(found)
    except (ValueError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        return str(error)
    return None


def settings(path: Path) -> dict[str, Any]:
    """Whether it is a compiled package, and if so of what batch size, and the axes of batches in its outputs.

    The batch size is 0 for a package whose inputs have no free batch.
    """
    if not path.name.endswith(PACKAGE_ENDING):
        return {"compiled": False}
    known = metadata_of(path)
    return {
        "compiled": True,
        "batch": int(known.get(BATCH) or 0),
        "output_axes": json.loads(known.get(AXES, "[]")),
    }


def metadata(path: Path) -> dict[str, str]:
    """What the file says of its Program."""
    if path.name.endswith(PACKAGE_ENDING):
        return metadata_of(path)
    program = load_program(path)
    return {SIGNATURE: program.signature.to_json(), PROCESSOR: program.processor}


def example_inputs(path: Path, batch_size: int) -> tuple[Tensor, ...] | None:
    """A saved Program's own example inputs; None for a compiled package.

    Raises InputError for a package of another batch size: it pads or splits a batch, so that its latency
    would be misread.
    """
    if not path.name.endswith(PACKAGE_ENDING):
        return at_batch(load_program(path), batch_size).example_inputs
    size = metadata_of(path).get(BATCH)
    if size and int(size) != batch_size:
        raise InputError(f"{path} is compiled for batches of {size}; give --batch-size {size}")
    return None


def of_shapes(call: Callable[..., Any], metadata: dict[str, str]) -> Callable[..., Any]:
    """``call``, which does not check its inputs, for the sizes that it is compiled for, and no others."""
    shapes = [tuple(shape) for shape in json.loads(metadata.get(SHAPES, "[]"))]
    first = 1 if metadata.get(BATCH) else 0  # any batch is split to the size

    def run(*inputs: Tensor) -> Any:
        for number, (tensor, shape) in enumerate(zip(inputs, shapes, strict=bool(shapes)), 1):
            sizes = tuple(tensor.shape)
            if sizes[first:] != shape[first:]:
                axis = next(i for i in range(first, len(shape)) if sizes[i : i + 1] != shape[i : i + 1])
                raise InputError(
                    f"input {number} has shape {sizes}; a package of the torch engine takes one size, here"
                    f" {shape[axis]} along axis {axis}: capture on such inputs and compile another,"
                    " or run it on onnxruntime or openvino"
                )
        return call(*inputs)

    return run


def _in_batches(call: Callable[..., Any], size: int, axes: Sequence[int | None]) -> Run:
    """``call``, which takes batches of one size, for batches of any size; the last one is padded.

    ``axes``: along which the items of each output lie; of one without a batch the first part is given.
    """

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        count = len(inputs[0])
        if count == size:
            return flat_tensors(call(*inputs))
        missing = -count % size
        full = [torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) for tensor in inputs]
        parts = [
            flat_tensors(call(*batch)) for batch in zip(*(tensor.split(size) for tensor in full), strict=True)
        ]
        return tuple(
            outputs[0] if axis is None else torch.cat(outputs, axis).narrow(axis, 0, count)
            for outputs, axis in zip(zip(*parts, strict=True), axes or [0] * len(parts[0]), strict=True)
        )

    return run


def integer_operators(program: Program, path: Path) -> set[str]:
    """The names of the Program's nodes that the artefact computes in integers, by the kernels it calls."""
    if not path.name.endswith(PACKAGE_ENDING):
        return set()
    with zipfile.ZipFile(path) as file:
        (name,) = (name for name in file.namelist() if name.endswith(KERNELS))
        kernels = json.loads(file.read(name))
    found = set()
    for families, words in ((("conv", "conv1d", "conv_transpose"), "conv"), (("linear",), "linear|addmm")):
        layers = [n for n in program.module.graph.nodes if weighted(n) and family(n) in families]
        called = [kernel for kernel in kernels if re.search(words, kernel)]
        if len(called) == len(layers):
            found |= {n.name for n, kernel in zip(layers, called, strict=True) if kernel.startswith("q")}
    return found
