"""The PyTorch compiler: packages of native code, compiled ahead of time, and loaded again."""

import ctypes
import hashlib
import json
import logging
import re
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from zeropoint.errors import InputError


def compile_error() -> type[Exception]:
    """What ``torch.compile`` raises if it cannot compile a function."""
    error: type[Exception] = torch._dynamo.exc.TorchDynamoException
    return error


def compile_package(
    exported: ExportedProgram, package: Path, *, metadata: dict[str, str], one_thread: bool
) -> list[set[str]]:
    """Writes a compiled package, for as many threads as PyTorch has; raises InputError without a compiler.

    Returns the names of the constants that each call of an integer kernel of oneDNN reads: scales and zero
    points of weights, and biases. The weights themselves are laid out anew, under names of the compiler's.

    A package for one thread has loops without OpenMP, which is 4 to 10% faster on ShuffleNetV2. Other
    packages run with fewer threads, too.
    """
    kernels = _IntegerKernels()
    configuration = {
        "post_grad_custom_pre_pass": kernels,
        "freezing": True,  # without it, integer weights are not treated as constants
        "cpp.dynamic_threads": not one_thread,
        "aot_inductor.metadata": metadata,
    }

    def compile() -> None:
        with torch.no_grad():  # weights are only frozen if no gradient can be asked for
            torch._inductor.aoti_compile_and_package(
                exported, package_path=str(package), inductor_configs=configuration
            )

    try:
        with _own_layouts():
            _in_thread(compile)
    except torch._inductor.exc.InvalidCxxCompiler as error:
        raise InputError("the torch engine needs a C++ compiler to quantize; install g++") from error
    return kernels.constants


class _IntegerKernels(CustomGraphPass):
    """Notes the constants that integer kernels read, and stores a weight that several kernels read once.

    The compiler lays a weight out for each of them, mostly in the same way.
    """

    def __init__(self) -> None:
        self.constants: list[set[str]] = []

    def __call__(self, graph: Graph) -> None:
        """Called by the compiler with the graph of its kernels."""
        weights: dict[tuple[bytes, bytes], Node] = {}
        for node in list(graph.nodes):
            if str(node.target).startswith(("onednn.qconv", "onednn.qlinear")):
                self.constants.append(
                    {str(one.target) for one in node.all_input_nodes if one.op == "get_attr"}
                )
            elif node.op == "get_attr":
                stored = getattr(graph.owning_module, str(node.target), None)
                if isinstance(stored, Tensor) and stored.is_mkldnn:
                    first = weights.setdefault(_laid_out(stored), node)
                    if first is not node:
                        node.replace_all_uses_with(first)
                        graph.erase_node(node)

    def __deepcopy__(self, memo: object) -> "_IntegerKernels":
        """The same one, as the compiler copies its settings."""
        return self

    def uuid(self) -> None:
        """No name in a cache: the compiler would not call what it takes from one."""


def _laid_out(weight: Tensor) -> tuple[bytes, bytes]:
    """The layout of a tensor of oneDNN's, and the digest of its bytes."""
    layout = torch.ops.mkldnn._get_mkldnn_serialized_md(weight).numpy().tobytes()
    size = torch.ops.mkldnn._nbytes(weight)
    stored = (ctypes.c_char * size).from_address(torch.ops.mkldnn.data_ptr(weight))
    return layout, hashlib.sha256(stored).digest()


def _in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of ``function`` in a new thread, with as many threads to compute with as this one.

    In every thread PyTorch remembers how oneDNN lays out weights, by their shape alone. The layout depends
    on the number of threads and on the zero point of the input, too. Weights with the wrong layout are laid
    out again at every call: 0.1 ms each in int8, 4 ms in bfloat16.
    """
    threads = torch.get_num_threads()

    def run() -> Any:
        torch.set_num_threads(threads)
        return function(*arguments)

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(run).result()


@contextmanager
def _own_layouts() -> Iterator[None]:
    """Lays out each weight of an integer convolution in a new thread, so that no layout is remembered."""
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


def with_aligned_weights(library: bytes) -> bytes:
    """The bytes of a compiled library, changed to hold its weights in memory from ``valloc``.

    ``valloc`` returns the start of a page. By default the library copies its weights into memory from
    ``malloc``, which starts 16 bytes after a page, so that every vector of weights is in two cache lines:
    ResNet-18 takes 7% longer. The two functions have the same arguments, and ``free`` frees both.
    """
    return library.replace(b"\0malloc\0", b"\0valloc\0")


def called_kernels(package: Path) -> list[str]:
    """The kernels of layers that the generated code of a package calls, in its order."""
    calls = re.compile(r"aoti_torch_cpu_+(\w*(?:conv|linear|addmm|mm_out)\w*)\(")
    with zipfile.ZipFile(package) as archive:
        sources = [name for name in archive.namelist() if name.endswith(".wrapper.cpp")]
        return [call for name in sources for call in calls.findall(archive.read(name).decode())]


def load_package(path: Path) -> Any:
    """A compiled package as a callable; its code does not check its inputs."""
    logging.getLogger("torch.export.pt2_archive._package").setLevel(logging.ERROR)
    return torch._inductor.aoti_load_package(str(path))


def package_metadata(path: Path) -> dict[str, Any]:
    """The metadata that a package was compiled with, without loading its code."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("wrapper_metadata.json")]
        return dict(json.loads(archive.read(names[0]))) if names else {}
