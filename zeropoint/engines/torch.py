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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from zeropoint.engines.qdq import to_pairs
from zeropoint.engines.torch_rewrites import move_integers, pack_pixels
from zeropoint.errors import InputError
from zeropoint.files import atomic_write
from zeropoint.graph.archive import repack
from zeropoint.graph.operators import family, weighted
from zeropoint.graph.program import Program, export, flat_tensors
from zeropoint.graph.program import load as load_program
from zeropoint.graph.quantizers import quantizers
from zeropoint.targets.target import AT_RUN_TIME, NO_GROUPS, X86_ALONE, Limit, Target

# They take the zero points of weights for zeros: -3 dB where the simulation has 39.
AFFINE_WRONG = "PyTorch's int8 kernels are wrong for affine weights"
TARGET = Target(
    name="torch",
    weighted=frozenset({"conv", "linear"}),  # a quantized convolution of one dimension is beyond the compiler
    # The compiler has no int8 addition, but a shortcut that is read in int8 is a quarter of the memory
    # traffic: 8% on ResNet-50.
    # Concatenated and split as integers, channels make ShuffleNetV2 30% faster.
    inputs=frozenset({"add", "cat"}),
    limits=(
        *AT_RUN_TIME,
        NO_GROUPS,
        X86_ALONE,
        Limit(
            ("dynamic", "static", "static-best", "qat"),
            "weight_symmetric",
            (None, True),
            AFFINE_WRONG,
        ),
    ),
)
WITHOUT_VNNI = TARGET
PACKAGES = ("torch",)
PACKAGE_SUFFIX = ".aoti.pt2"
KERNELS = "kernels.json"  # in a package: the kernels that it calls, in order
# Keys of a package's metadata: the batch size it is compiled for, the shapes of its inputs, and the kind of
# processor that it was quantized for.
BATCH, SHAPES, PROCESSOR = "zeropoint_batch", "zeropoint_shapes", "zeropoint_processor"


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

    The package is compiled for the batch size of the example inputs and the number of threads that PyTorch
    computes with: oneDNN lays weights out for one size and number, and for others it lays some of them out
    again at every call (10 times slower on ResNet-50 with the size left free, 3 times on MobileNetV2 in
    bfloat16 with one thread in place of two).
    """
    if program.method == "fp32":
        return program.save(path)
    affine = [quantizer for quantizer in quantizers(program.module) if quantizer.zero_point.any()]
    of_layers = [q for q in affine if q.is_weight and any(weighted(user) for user in q.node.users)]
    if program.method != "weight-only" and of_layers:
        raise InputError(f"{AFFINE_WRONG}; quantize for the torch engine, or run this on another one")
    fixed = dataclasses.replace(program, dynamic_batch=False)
    exported = export(fixed, module=pack_pixels(move_integers(to_pairs(fixed))))
    # Weights go in as integer constants only if the compiler may treat them as constants: freezing. A package
    # for one thread has loops without OpenMP, 4 to 10% on ShuffleNetV2; others run with fewer threads too.
    one_thread = torch.get_num_threads() == 1
    batch = str(program.example_inputs[0].shape[0]) if program.dynamic_batch else ""
    shapes = json.dumps([list(t.shape) for t in program.example_inputs])
    metadata = {BATCH: batch, SHAPES: shapes, PROCESSOR: program.processor}
    configuration = {
        "freezing": True,
        "cpp.dynamic_threads": not one_thread,
        "aot_inductor.metadata": metadata,
    }
    try:
        with (
            atomic_write(path) as temporary,
            tempfile.TemporaryDirectory(dir=temporary.parent) as folder,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            package = Path(folder) / temporary.name
            with _own_layouts():
                _in_thread(_compile, exported, package, configuration)
            kernels = {f"{path.stem}/{KERNELS}": json.dumps(_kernels(package))}
            repack(
                package,
                temporary,
                deflate=(".so", ".json"),
                drop=(".cpp",),
                add=kernels,
                edit={".so": _with_aligned_weights},
            )
    except torch._inductor.exc.InvalidCxxCompiler as error:
        raise InputError("the torch engine needs a C++ compiler to quantize; install g++") from error
    return None


def _with_aligned_weights(library: bytes) -> bytes:
    """A compiled library that holds its weights in memory from ``valloc``, which begins with a page.

    It copies them into memory from ``malloc``, which begins 16 bytes behind one, so that every vector of
    weights is in two cache lines: ResNet-18 takes 7% longer. The two have the same arguments, and ``free``.
    """
    return library.replace(b"\0malloc\0", b"\0valloc\0")


def _compile(exported: ExportedProgram, package: Path, configuration: dict[str, Any]) -> None:
    with torch.no_grad():  # weights are frozen only where no gradient can be asked for
        torch._inductor.aoti_compile_and_package(
            exported, package_path=str(package), inductor_configs=configuration
        )


def _in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function`` gives in a new thread, which computes with as many threads as this one.

    PyTorch remembers in every thread how oneDNN lays out weights, by their shape alone, not by the number of
    threads or the zero point of the input: weights that were laid out in the wrong way are laid out again at
    every call, 0.1 ms each in int8 and 4 ms in bfloat16.
    """
    threads = torch.get_num_threads()

    def run() -> Any:
        torch.set_num_threads(threads)
        return function(*arguments)

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(run).result()


@contextmanager
def _own_layouts() -> Iterator[None]:
    """Has each weight of an integer convolution laid out by itself."""
    pack, library = "onednn::qconv_prepack", torch.library.Library("onednn", "IMPL")
    kernel = torch.library.get_kernel(pack, "CPU")
    library.impl(
        pack,
        lambda keys, *arguments: _in_thread(kernel.call_boxed, keys, *arguments),
        "CPU",
        with_keyset=True,
    )
    try:
        yield
    finally:
        library._destroy()


def load(path: Path, threads: int) -> Callable[..., tuple[Tensor, ...]]:
    """The artefact as a callable from tensors to a tuple of tensors."""
    if path.name.endswith(PACKAGE_SUFFIX):
        logging.getLogger("torch.export.pt2_archive._package").setLevel(logging.ERROR)
        package = torch._inductor.aoti_load_package(str(path))
        metadata = package.loader.get_metadata()
        batch = metadata.get(BATCH)
        call = _of_shapes(_in_batches(package, int(batch)) if batch else package, metadata)
    else:
        call = load_program(path).module

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            # A package takes its inputs to lie in memory as they did when it was compiled: unchecked.
            return flat_tensors(call(*(tensor.contiguous() for tensor in inputs)))

    return run


def processor_of(path: Path) -> str:
    """The kind of processor that an artefact was quantized for; empty where it does not tell."""
    return str(package_metadata(path).get(PROCESSOR, ""))


def package_metadata(path: Path) -> dict[str, Any]:
    """What a compiled package says of itself; nothing of other files."""
    if not path.name.endswith(PACKAGE_SUFFIX):
        return {}
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("wrapper_metadata.json")]
        return dict(json.loads(archive.read(names[0]))) if names else {}


def _of_shapes(call: Callable[..., Any], metadata: dict[str, str]) -> Callable[..., Any]:
    """``call``, which reads its inputs unchecked, for the sizes alone that it is compiled for."""
    shapes = [tuple(shape) for shape in json.loads(metadata.get(SHAPES, "[]"))]
    first = 1 if metadata.get(BATCH) else 0  # any batch is cut to the size

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
