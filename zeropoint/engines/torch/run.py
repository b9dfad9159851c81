"""Running artefacts on PyTorch: saved Programs and compiled packages."""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from zeropoint.engines import fixed
from zeropoint.engines.engine import KEPT, PROCESSOR, SIGNATURE, Run
from zeropoint.engines.qdq import scale_name
from zeropoint.graph import archive
from zeropoint.graph.operators import FAKE_QUANTIZE_CHANNEL, weighted
from zeropoint.graph.program import Program, at_batch, flat_tensors
from zeropoint.graph.program import load as load_program
from zeropoint.torch_private.compiler import load_package
from zeropoint.torch_private.compiler import package_metadata as metadata_of

PROGRAM_ENDING, PACKAGE_ENDING = ".torch.pt2", ".torch.aoti.pt2"
INTEGERS = "integers.json"  # in a package: the constants that each call of an integer kernel reads
KERNELS = "kernels.json"  # in a package: the kernels that it calls, in order; a shipped folder counts them


def files(path: Path) -> tuple[Path, ...]:
    """The file, which holds everything."""
    return (path,)


def load(path: Path, threads: int, kept: int = KEPT) -> Run:
    """The artefact as a callable from tensors to a tuple of tensors; a package takes one shape anyhow."""
    if path.name.endswith(PACKAGE_ENDING):
        package = load_package(path)
        call = fixed.sized(package, package.loader.get_metadata(), "a package of the torch engine")
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
    return {"compiled": True, **fixed.settings(metadata_of(path))}


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
    fixed.check_batch(metadata_of(path), batch_size, path)
    return None


def integer_operators(program: Program, path: Path) -> set[str]:
    """The names of the Program's nodes that the artefact computes in integers, by the scales it reads."""
    if not path.name.endswith(PACKAGE_ENDING):
        return set()
    with zipfile.ZipFile(path) as file:
        (name,) = (name for name in file.namelist() if name.endswith(INTEGERS))
        read = {constant for of_kernel in json.loads(file.read(name)) for constant in of_kernel}
    found = set()
    for layer in program.module.graph.nodes:
        description = weighted(layer)
        weight = layer.args[description.weight] if description else None
        if isinstance(weight, Node) and weight.target is FAKE_QUANTIZE_CHANNEL:
            scale = scale_name(str(weight.all_input_nodes[0].target))
            if read & {scale, scale_of_layer(scale, layer.name)}:
                found.add(layer.name)
    return found


def scale_of_layer(scale: str, layer: str) -> str:
    """How the scales are called that a layer has of its own, where layers share a weight."""
    return f"{scale}__{layer}"
