"""Runs the artefact of this folder on PyTorch: needs torch of the version in manifest.json.

A compiled package is native code, which runs when it is loaded: run a folder only from a place you trust.
"""

import json
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batches import in_batches
from torch import Tensor

Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
Shapes = tuple[tuple[int, ...], ...]


def version() -> str:
    """That of the installed PyTorch."""
    return str(torch.__version__)


def compiler(path: Path, manifest: dict[str, Any], threads: int) -> Callable[[Shapes | None], Run]:
    """A function that loads the artefact; it is the same for all shapes."""
    torch.set_num_threads(threads)
    settings = manifest["engine"]["settings"]

    def compile(_: Shapes | None) -> Run:
        call = _packaged(path) if settings["compiled"] else _exported(path)
        size, axes = settings.get("batch", 0), settings.get("output_axes", [])

        def tensors(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
            leaves = torch.utils._pytree.tree_leaves(call(*inputs))
            return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))

        def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            with torch.inference_mode():
                inputs = [torch.from_numpy(array) for array in arrays]
                return [output.numpy() for output in in_batches(tensors, inputs, size, axes)]

        return run

    return compile


def kernels(
    path: Path, manifest: dict[str, Any], threads: int, arrays: Sequence[np.ndarray]
) -> dict[str, int]:
    """How many layers with weights the package calls integer and float kernels for; they are compiled in."""
    if not manifest["engine"]["settings"]["compiled"]:
        return {"int8": 0, "float": 0}
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("kernels.json"))
        called = [name for name in json.loads(archive.read(name)) if re.search("conv|linear|mm", name)]
    integers = sum(name.startswith("q") for name in called)
    return {"int8": integers, "float": len(called) - integers}


def _packaged(path: Path) -> Callable[..., Any]:
    """A compiled package as a function of its input tensors in order.

    The loader is what torch._inductor.aoti_load_package wraps, whose import takes two seconds more. It is
    private, but a package runs on the very version of torch alone that compiled it.
    """
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
    return lambda *tensors: loader.run(list(tensors))


def _exported(path: Path) -> Callable[..., Any]:
    """A saved program as a function of its input tensors in order."""
    exported = torch.export.load(str(path))
    stored: dict[str, Any] = {**exported.state_dict, **exported.constants}
    kinds = torch.export.graph_signature.InputKind
    specs = exported.graph_signature.input_specs
    held = [None if spec.kind is kinds.USER_INPUT else stored[str(spec.target)] for spec in specs]
    places = [number for number, spec in enumerate(specs) if spec.kind is kinds.USER_INPUT]

    def call(*tensors: Tensor) -> Any:
        values = list(held)
        for place, tensor in zip(places, tensors, strict=True):
            values[place] = tensor
        return exported.graph_module(*values)

    return call
