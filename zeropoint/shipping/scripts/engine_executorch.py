"""Runs the artefact of this folder on ExecuTorch: needs executorch, whose Python needs torch, and NumPy.

The runtime is taken from the private module that executorch.runtime wraps: the import of the wrapper brings
ExecuTorch's exporter, which takes seconds.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batches import in_batches
from executorch.extension.pybindings import _C as runtime  # noqa: N811

Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
Shapes = tuple[tuple[int, ...], ...]
_loaded: list[Any] = []  # programs; the first one decides on the threads of the process: it keeps the pool


def version() -> str:
    """That of the installed ExecuTorch."""
    from importlib.metadata import version as installed

    return installed("executorch")


def compiler(path: Path, manifest: dict[str, Any], threads: int) -> Callable[[Shapes | None], Run]:
    """A function that gives the artefact, which takes one shape and splits or pads batches to it."""
    if not _loaded and runtime._threadpool_get_thread_count() != threads:
        runtime._unsafe_reset_threadpool(threads)
    program = runtime._load_program(str(path), program_verification=runtime.Verification.InternalConsistency)
    method = program.load_method("forward")
    _loaded.append(program)
    settings = manifest["engine"]["settings"]

    def compile(_: Shapes | None) -> Run:
        def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
            outputs = in_batches(method, tensors, settings["batch"], settings["output_axes"])
            return [output.numpy() for output in outputs]

        return run

    return compile


def kernels(
    path: Path, manifest: dict[str, Any], threads: int, arrays: Sequence[np.ndarray]
) -> dict[str, int]:
    """How many layers with weights XNNPACK runs in integers and in float, as the artefact says of itself."""
    return dict(manifest["engine"]["settings"]["kernels"])
