"""Runs the artefact of this folder on ExecuTorch: needs executorch, whose Python needs torch, and NumPy."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Runtime
from torch import Tensor

Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
Shapes = tuple[tuple[int, ...], ...]
_loaded: list[Path] = []  # the first one decides on the threads of the process: it keeps the pool


def version() -> str:
    """That of the installed ExecuTorch."""
    from importlib.metadata import version as installed

    return installed("executorch")


def compiler(path: Path, manifest: dict[str, Any], threads: int) -> Callable[[Shapes | None], Run]:
    """A function that gives the artefact, which takes one shape and splits or pads batches to it."""
    if not _loaded and portable_lib._threadpool_get_thread_count() != threads:
        portable_lib._unsafe_reset_threadpool(threads)
    program = Runtime.get().load_program(path)
    method = program.load_method("forward")
    _loaded.append(path)
    settings = manifest["engine"]["settings"]

    def compile(_: Shapes | None) -> Run:
        def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
            outputs = _in_batches(method.execute, tensors, settings["batch"], settings["output_axes"])
            return [output.numpy() for output in outputs]

        return run

    return compile


def kernels(
    path: Path, manifest: dict[str, Any], threads: int, arrays: Sequence[np.ndarray]
) -> dict[str, int]:
    """How many layers with weights XNNPACK runs in integers and in float, as the artefact says of itself."""
    return dict(manifest["engine"]["settings"]["kernels"])


def _in_batches(
    execute: Callable[[list[Tensor]], Sequence[Tensor]],
    inputs: list[Tensor],
    size: int,
    axes: Sequence[int | None],
) -> Sequence[Tensor]:
    """The outputs of a batch of any size, of a method that takes batches of ``size``; 0 if it takes none."""
    if not size or len(inputs[0]) == size:
        return execute(inputs)
    count = len(inputs[0])
    missing = -count % size
    full = [torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) for tensor in inputs]
    parts = [
        execute([part.contiguous() for part in batch])
        for batch in zip(*(t.split(size) for t in full), strict=True)
    ]
    return [
        outputs[0] if axis is None else torch.cat(outputs, axis).narrow(axis, 0, count)
        for outputs, axis in zip(zip(*parts, strict=True), axes, strict=True)
    ]
