"""Engines by name: lower a Program to an artefact, load it, run it."""

import dataclasses
import functools
import importlib
import importlib.util
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
from msgspec import Meta
from torch import Tensor, as_tensor, dtype, float32, get_num_threads, set_num_threads

from zeropoint.data.nested import replaced
from zeropoint.engines.engine import KEPT, SIGNATURE, Engine, Run
from zeropoint.engines.refusals import refusal as why_not
from zeropoint.engines.verify import WrongError, check_lowering
from zeropoint.errors import Count, InputError, InputWarning, check_value, closest
from zeropoint.graph.program import Program, at_batch, check_program
from zeropoint.graph.quantizers import multiplies_quantized
from zeropoint.graph.signature import Signature, from_text
from zeropoint.graph.sizes import (
    Shape,
    check_shapes,
    check_types,
    input_shapes,
    input_types,
    keeping_bounds,
)
from zeropoint.targets import processor as processors
from zeropoint.targets.machine import cores
from zeropoint.targets.options import Options
from zeropoint.targets.processor import ARM, NATIVE, Processor, warn_of
from zeropoint.targets.target import Target

if TYPE_CHECKING:  # that each of them has every member of Engine
    from zeropoint.engines import executorch, onnxruntime, openvino, torch

    _TORCH: Engine = torch
    _ONNXRUNTIME: Engine = onnxruntime
    _OPENVINO: Engine = openvino
    _EXECUTORCH: Engine = executorch

# Each is a module of this folder, and an extra of the package to install.
NAMES = (
    "torch",
    "onnxruntime",
    "openvino",
    "executorch",
)
ON_REQUEST = ("executorch",)
"""Engines that are used only where they are asked for: on x86 processors the others are faster."""


@dataclass(frozen=True)
class Runner:
    """A compiled model on an engine. ``threads`` is the number it computes with, ``artefact`` its file.

    ``shapes``: the sizes that the inputs' axes may have, ``dtypes``: their types; empty if only the artefact
    knows. ``signature``: how the model is called; None for an artefact of an older zeropoint.

    >>> runner = zp.compile(program, "onnxruntime", threads=1)
    >>> runner.engine, runner.threads, runner.artefact.suffix
    ('onnxruntime', 1, '.onnx')
    """

    engine: str
    threads: int
    artefact: Path
    run: Run
    shapes: tuple[Shape, ...] = ()
    dtypes: tuple[dtype, ...] = ()
    signature: Signature | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives, on the CPU, for the arguments of its own call; NumPy arrays are taken, too.

        Floats are converted to float32. Without a signature the arguments are tensors in order, and the
        outputs a tensor or a tuple of tensors.

        Raises InputError for arguments that the model was not captured with, and for an input of a shape or
        type that it was not captured for: engines would read after its end, or give meaningless outputs. NaN
        is not looked for: integer layers make ordinary numbers of it.
        """
        args, kwargs = replaced((args, kwargs), np.ndarray, as_tensor)
        if self.signature is not None:
            return self.signature.nested(self.flat(*self.signature.flat(args, kwargs)))
        outputs = self.flat(*args, **kwargs)
        return outputs[0] if len(outputs) == 1 else outputs

    def flat(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The output tensors, in order, of the input tensors in order; errors as of a call."""
        tensors = tuple(map(_as_float32, inputs))
        if self.shapes:
            check_shapes(tensors, self.shapes)
        if self.dtypes:
            check_types(tensors, self.dtypes)
        return self.run(*tensors)


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() and tensor.dtype != float32 else tensor


def find(name: str) -> Engine:
    """The engine of a name; raises InputError if the name is unknown or a package is not installed."""
    engine = named(name)
    if not _is_installed(engine):  # of this engine alone: importing the torch engine takes a second
        raise InputError(f"engine '{name}' is not installed; install it with: {_hint(name)}")
    return engine


def named(name: str) -> Engine:
    """The engine of a name, whose packages may be missing; raises InputError if the name is unknown."""
    if name not in NAMES:
        raise InputError(f"unknown engine '{name}'; {closest(name, NAMES)}")
    return cast(Engine, importlib.import_module(f"zeropoint.engines.{name}"))


def missing() -> dict[str, str]:
    """The engines that are not installed, each with the command that installs it."""
    return {name: _hint(name) for name in NAMES if not _is_installed(named(name))}


def _is_installed(engine: Engine) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in engine.PACKAGES)


def _hint(name: str) -> str:
    return f"pip install 'zeropoint[{name}]'"


def installed() -> list[str]:
    """The engines that can be used, by name, but for those ON_REQUEST."""
    absent = (*missing(), *ON_REQUEST)
    return [name for name in NAMES if name not in absent]


def target(name: str, processor: str = NATIVE) -> Target:
    """The placement rules of an engine for a kind of processor; the engine may be missing.

    They are those for Arm if the engine's kernels are exact on every processor.
    """
    kind = processors.find(processor)
    rules = named(name).target_for(kind)
    return dataclasses.replace(rules, processor=ARM if rules.exact else kind.name)


def computes_as(name: str, made_for: str = "") -> Processor:
    """The kind of processor as which an engine computes here what was ``made_for`` one: this machine's.

    Of an engine that is exact on every processor it is that kind itself, by default Arm.
    """
    rules = target(name)
    return processors.find((made_for or rules.processor) if rules.exact else NATIVE)


def refusal(rules: Target, method: str, settings: Options | Program) -> str | None:
    """Why an engine of these rules cannot run a method with these settings, and which ones can; or None."""
    reason = rules.refuses(method, settings)
    if reason is None:
        return None
    able = [name for name in NAMES if target(name).refuses(method, settings) is None]
    return f"{reason}; {' and '.join(able) or 'no engine'} can"


def unsupported(name: str, method: str, settings: Options | Program) -> str | None:
    """Why an engine cannot run a method with these settings on this processor, or None."""
    return refusal(target(name), method, settings) or named(name).unsupported(method)


def compile(
    program: Program,
    engine: str,
    *,
    threads: int | None = None,
    batch_size: int = 1,
    path: str | os.PathLike[str] | None = None,
    verify: bool = True,
    shapes: int = KEPT,
) -> Runner:
    """The Program lowered to an engine and ready to run.

    ``threads`` defaults to all cores. Any batch can be run; the torch engine is fastest at ``batch_size``.
    The artefact is written to ``path`` with the engine's own ending added if it is missing, or to a
    temporary folder that is deleted when Python stops.
    ``verify`` compares the artefact with the simulation on the example. For the first so many ``shapes`` of
    inputs the engine compiles it once more; one form, which is slower, serves all others.
    Raises InputError if the engine is unknown, not installed, cannot run the Program, or computes something
    else than the simulation on the example. Warns if it computes in float what another engine's rules
    quantized.

    >>> runner = zp.compile(quantized, "openvino", threads=1)
    >>> runner(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 5])
    """
    check_program(program)
    check_value("threads", threads, Count | None)
    check_value("batch_size", batch_size, Count)
    check_value("shapes", shapes, Annotated[int, Meta(ge=0)])
    ending = find(engine).artefact_name(program)
    if reason := unsupported(engine, program.method, program):
        raise InputError(f"{engine} cannot run {program.method}: {reason}")
    here = computes_as(engine, program.processor)
    warn_of(program.processor, "the Program", here)
    file = Path(path) if path is not None else Path(tempfile.mkdtemp(dir=_scratch().name)) / "model"
    if not file.name.endswith(ending):
        file = file.with_name(file.name + ending)
    try:
        sized = at_batch(program, batch_size)
        lower(sized, engine, file, threads)
        runner = load_artefact(engine, file, threads, program, shapes)
        if verify:
            check_lowering(program, runner.run, engine, batch_size, here)
        else:
            runner.flat(*sized.example_inputs)  # engines compile for the shapes of the inputs, and may fail
        _warn_of_floats(sized, engine, file)
        return runner
    except WrongError:
        for part in find(engine).files(file):  # a wrong artefact is not handed out
            part.unlink(missing_ok=True)
        raise
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{engine} cannot run this {program.method} Program: {why_not(error)}") from error


def _warn_of_floats(program: Program, engine: str, path: Path) -> None:
    """Warns where an engine computes in float what was quantized by another engine's rules.

    Not of dynamic quantization, where engines prefer float for small layers anyhow.
    """
    if program.target in ("", engine) or program.method == "dynamic":
        return
    quantized = {node.name for node in program.module.graph.nodes if multiplies_quantized(node)}
    if floats := quantized and quantized - find(engine).integer_operators(program, path):
        text = (
            f"the Program was quantized for {program.target}: {engine} computes {len(floats)} of"
            f" {len(quantized)} quantized layers in float, which is slower; quantize for it, with target"
            f" {engine}"
        )
        warnings.warn(InputWarning(text), stacklevel=3)


def lower(program: Program, engine: str, path: Path, threads: int | None = None) -> None:
    """Writes the artefact of a Program at ``path``, to run with ``threads`` threads: by default one per core.

    The PyTorch compiler lays weights out for the number of threads that PyTorch has during compilation.
    """
    before = get_num_threads()
    set_num_threads(threads or cores())
    try:
        with keeping_bounds(program.module):
            find(engine).lower(program, path)
    finally:
        set_num_threads(before)


def load_artefact(
    engine: str,
    path: Path,
    threads: int | None = None,
    program: Program | None = None,
    shapes: int = KEPT,
) -> Runner:
    """A Runner on an artefact that ``compile`` wrote earlier, of ``program`` if that is known."""
    threads = threads or cores()
    module = find(engine)
    run = module.load(path, threads, shapes)
    if program is not None:
        sizes, dtypes = input_shapes(program.module), input_types(program.module)
        return Runner(engine, threads, path, run, sizes, dtypes, program.signature)
    text = module.metadata(path).get(SIGNATURE)
    return Runner(engine, threads, path, run, signature=from_text(text) if text else None)


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="zeropoint-")
