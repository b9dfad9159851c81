"""Running ``.pte`` artefacts on ExecuTorch."""

import json
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zeropoint.engines import fixed, seal
from zeropoint.engines.engine import KEPT, Run
from zeropoint.engines.shapes import stand_in
from zeropoint.errors import InputError
from zeropoint.graph.program import Program, flat_tensors

INTEGERS, KERNELS, TORCH = "zeropoint_integers", "zeropoint_kernels", "zeropoint_torch"
SEAL = (seal.KEY.encode() + b" ", b"")  # after the last segment, where the runtime reads nothing
METHOD = "forward"


def files(path: Path) -> tuple[Path, ...]:
    """The file, which holds the weights, too."""
    return (path,)


def damage(path: Path) -> str | None:
    """What is wrong with the file by its digest."""
    return seal.damage(files(path), SEAL)


def runtime() -> Any:
    """ExecuTorch's runtime, which raises ImportError if it is not installed.

    It is private. The public module that wraps it imports ExecuTorch's exporter, which takes seconds.
    """
    from executorch.extension.pybindings import _C

    return _C


class _Loaded:
    """A file's method, which is loaded again after the process's pool of threads was made anew."""

    def __init__(self, path: Path, threads: int) -> None:
        self.path, self.threads = path, threads
        self.parts: tuple[Any, Any] | None = None  # the program and its method
        _LIVE.add(self)
        self.method()

    def method(self) -> Any:
        """The method, for a pool of as many threads as this file is to have.

        What is loaded keeps a pointer to the pool that a reset frees, so that nothing may live then.
        """
        if runtime()._threadpool_get_thread_count() != self.threads:
            for other in _LIVE:
                other.parts = None
            runtime()._unsafe_reset_threadpool(self.threads)
        if self.parts is None:
            program = _opened(self.path)
            self.parts = program, program.load_method(METHOD)
        return self.parts[1]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        method = self.method()
        try:
            return tuple(method(inputs))
        except RuntimeError as error:  # which does not say where
            names = " or ".join(_outside(self.path)).replace("::", ".") or "an operator"
            raise InputError(f"ExecuTorch fails at {names}; take another engine") from error


_LIVE: weakref.WeakSet[_Loaded] = weakref.WeakSet()


def load(path: Path, threads: int, kept: int = KEPT) -> Run:
    """The artefact as a callable from tensors to a tuple of tensors; it takes one shape anyhow."""
    sized = fixed.sized(_Loaded(path, threads), metadata(path), "executorch")

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return flat_tensors(sized(*(tensor.contiguous() for tensor in inputs)))

    return run


def operators(file: Any) -> list[str]:
    """The operators outside XNNPACK of a file's content, by ATen's names."""
    return [f"{one.name}.{one.overload}".strip(".") for plan in file.execution_plan for one in plan.operators]


def _outside(path: Path) -> list[str]:
    from executorch.exir._serialize._program import deserialize_pte_binary

    return operators(deserialize_pte_binary(path.read_bytes()).program)


def _opened(path: Path) -> Any:
    return runtime()._load_program(str(path), program_verification=runtime().Verification.InternalConsistency)


def metadata(path: Path) -> Mapping[str, str]:
    """What the file says of its Program, in methods that give constants."""
    program = _opened(path)
    names = {program.get_method_name(number) for number in range(program.num_methods())}
    return {name: program.load_method(name)([])[0] for name in names - {METHOD}}


def settings(path: Path) -> dict[str, Any]:
    """The batch size that it is made for, axes of batches in outputs, its kernels, and PyTorch's version."""
    facts = metadata(path)
    return {**fixed.settings(facts), "kernels": json.loads(facts[KERNELS]), "torch": facts[TORCH]}


def example_inputs(path: Path, batch_size: int) -> tuple[Tensor, ...] | None:
    """Inputs of the shapes and types that the artefact takes.

    Raises InputError for another batch size: the artefact pads or splits a batch.
    """
    fixed.check_batch(metadata(path), batch_size, path)
    program = _opened(path)
    meta = program.method_meta(METHOD)
    inputs = [meta.input_tensor_meta(number) for number in range(meta.num_inputs())]
    return tuple(stand_in(one.sizes(), _TYPES[one.dtype()]) for one in inputs)


def integer_operators(program: Program, path: Path) -> set[str]:
    """The names of the Program's nodes that the artefact computes in integers, which lowering wrote in it."""
    return set(json.loads(metadata(path)[INTEGERS]))


# By their numbers in a file, which are those of ATen.
_TYPES = {
    0: torch.uint8, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.int64, 5: torch.float16,
    6: torch.float32, 7: torch.float64, 11: torch.bool, 15: torch.bfloat16,
}  # fmt: skip
