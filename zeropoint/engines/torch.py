"""The PyTorch engine: eager for float32; everything else compiled ahead of time by the PyTorch compiler.

The compiled package holds oneDNN's int8 kernels and runs with no compiler on the machine.
"""

import dataclasses
import json
import logging
import re
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from zeropoint import graph as fx
from zeropoint.archive import repack
from zeropoint.engines.qdq import pairs, to_pairs
from zeropoint.errors import InputError
from zeropoint.files import atomic_write
from zeropoint.operators import aten, family, weighted
from zeropoint.program import Program, export, flat_tensors
from zeropoint.program import load as load_program
from zeropoint.target import Target

TARGET = Target(
    name="torch",
    weighted=frozenset({"conv", "linear"}),  # a quantized convolution of one dimension is beyond the compiler
    # The compiler has no int8 addition, but a shortcut that is read in int8 is a quarter of the memory
    # traffic: 8% on ResNet-50.
    inputs=frozenset({"add"}),
)
PACKAGES = ("torch",)
PACKAGE_SUFFIX = ".aoti.pt2"
KERNELS = "kernels.json"  # in a package: the kernels that it calls, in order
BATCH = "zeropoint_batch"  # key of a package's metadata: the batch size it is compiled for


def unsupported(method: str) -> str | None:
    """Why this engine cannot run a method on this processor, or None."""
    if method == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "this processor has no bfloat16 instructions that PyTorch uses"
    return None


def artefact_name(program: Program) -> str:
    """The ending of the artefact's file name."""
    return ".torch.pt2" if program.method == "fp32" else f".torch{PACKAGE_SUFFIX}"


def lower(program: Program, path: Path) -> None:
    """Writes a float32 Program as it is, any other as a compiled package; needs a C++ compiler for that.

    The package is compiled for the batch size of the example inputs: oneDNN lays weights out for one size,
    and with the size left free it lays them out again at every call (10 times slower on ResNet-50).
    """
    if program.method == "fp32":
        return program.save(path)
    fixed = dataclasses.replace(program, dynamic_batch=False)
    exported = export(fixed, module=_with_integer_pooling(to_pairs(fixed)))
    # Weights go in as integer constants only if the compiler may treat them as constants: freezing. Thread
    # counts are left open, since the same package runs single-threaded and on all cores.
    batch = str(program.example_inputs[0].shape[0]) if program.dynamic_batch else ""
    metadata = {BATCH: batch}
    configuration = {"freezing": True, "cpp.dynamic_threads": True, "aot_inductor.metadata": metadata}
    try:
        with (
            atomic_write(path) as temporary,
            tempfile.TemporaryDirectory(dir=temporary.parent) as folder,
            warnings.catch_warnings(),
            torch.no_grad(),  # the compiler freezes weights only where no gradient can be asked for
        ):
            warnings.simplefilter("ignore")
            package = Path(folder) / temporary.name
            torch._inductor.aoti_compile_and_package(
                exported, package_path=str(package), inductor_configs=configuration
            )
            kernels = {f"{path.stem}/{KERNELS}": json.dumps(_kernels(package))}
            repack(package, temporary, deflate=(".so", ".json"), drop=(".cpp",), add=kernels)
    except torch._inductor.exc.InvalidCxxCompiler as error:
        raise InputError("the torch engine needs a C++ compiler to quantize; install g++") from error
    return None


def _with_integer_pooling(module: GraphModule) -> GraphModule:
    """Has pooling by maximum come before its input is dequantized, and not be quantized again behind.

    A pooling between a dequantize and a quantize is a call of a kernel that takes six times as long.
    """
    for pool in [node for node in module.graph.nodes if node.target is aten.max_pool2d.default]:
        source = pool.args[0]
        if source.target is not pairs.dequantize_per_tensor.default:
            continue
        integers, *parameters = source.args
        pool.replace_input_with(source, integers)
        with module.graph.inserting_after(pool):
            floats = module.graph.call_function(source.target, (pool, *parameters))
        pool.replace_all_uses_with(floats, delete_user_cb=lambda user, floats=floats: user is not floats)
        for again in [user for user in floats.users if user.target is pairs.quantize_per_tensor.default]:
            if list(again.args[1:]) == parameters:
                again.replace_all_uses_with(pool)
    fx.remove_unused(module)
    return module


def load(path: Path, threads: int) -> Callable[..., tuple[Tensor, ...]]:
    """The artefact as a callable from tensors to a tuple of tensors."""
    if path.name.endswith(PACKAGE_SUFFIX):
        logging.getLogger("torch.export.pt2_archive._package").setLevel(logging.ERROR)
        package = torch._inductor.aoti_load_package(str(path))
        batch = package.loader.get_metadata().get(BATCH)
        call = _in_batches(package, int(batch)) if batch else package
    else:
        call = load_program(path).module

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            # A package takes its inputs to lie in memory as they did when it was compiled: unchecked.
            return flat_tensors(call(*(tensor.contiguous() for tensor in inputs)))

    return run


def _in_batches(call: Callable[..., Any], size: int) -> Callable[..., tuple[Tensor, ...]]:
    """``call``, which takes batches of one size only, for batches of any size; the last one is filled up."""

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        count = len(inputs[0])
        if count == size:
            return flat_tensors(call(*inputs))
        missing = -count % size
        full = [torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) for tensor in inputs]
        parts = [
            flat_tensors(call(*batch)) for batch in zip(*(tensor.split(size) for tensor in full), strict=True)
        ]
        return tuple(torch.cat(outputs)[:count] for outputs in zip(*parts, strict=True))

    return run


def _kernels(package: Path) -> list[str]:
    """The kernels of layers that the generated code calls, in its order."""
    calls = re.compile(r"aoti_torch_cpu_+(\w*(?:conv|linear|addmm|mm_out)\w*)\(")
    with zipfile.ZipFile(package) as archive:
        sources = [name for name in archive.namelist() if name.endswith(".wrapper.cpp")]
        return [call for name in sources for call in calls.findall(archive.read(name).decode())]


def integer_operators(program: Program, path: Path) -> set[str]:
    """The names of the Program's nodes that the artefact computes in integers, by the kernels it calls."""
    if not path.name.endswith(PACKAGE_SUFFIX):
        return set()
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(KERNELS))
        kernels = json.loads(archive.read(name))
    found = set()
    for families, words in ((("conv", "conv1d", "conv_transpose"), "conv"), (("linear",), "linear|addmm")):
        layers = [n for n in program.module.graph.nodes if weighted(n) and family(n) in families]
        called = [kernel for kernel in kernels if re.search(words, kernel)]
        if len(called) == len(layers):
            found |= {n.name for n, kernel in zip(layers, called, strict=True) if kernel.startswith("q")}
    return found
