"""Engines by name: lower a Program to an artefact, load it, run it."""

import importlib
import importlib.util
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import Tensor

from zeropoint.errors import InputError, closest
from zeropoint.program import Program
from zeropoint.target import Target

NAMES = ("torch", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Runner:
    """A compiled model on an engine. ``threads`` is the number it computes with, ``artefact`` its file."""

    engine: str
    threads: int
    artefact: Path
    run: Callable[..., tuple[Tensor, ...]]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The output tensors, float32 on the CPU, of the positional input tensors."""
        return self.run(*inputs)


def engine(name: str) -> ModuleType:
    """The module of an engine; raises InputError where the name is unknown or a package is not installed."""
    if name not in NAMES:
        raise InputError(f"unknown engine '{name}'; {closest(name, NAMES)}")
    if hint := missing().get(name):
        raise InputError(f"engine '{name}' is not installed; install it with: {hint}")
    return _module(name)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"zeropoint.engines.{name}")


def missing() -> dict[str, str]:
    """The engines that are not installed, each with the command that installs it."""
    packages = {name: _module(name).PACKAGES for name in NAMES}
    absent = [name for name in NAMES if any(importlib.util.find_spec(package) is None for package in packages[name])]
    return {name: f"pip install 'zeropoint[{name}]'" for name in absent}


def installed() -> list[str]:
    """The engines that can be used, by name."""
    absent = missing()
    return [name for name in NAMES if name not in absent]


def target(name: str) -> Target:
    """The placement rules of an engine, which need no package of it."""
    if name not in NAMES:
        raise InputError(f"unknown engine '{name}'; {closest(name, NAMES)}")
    return _module(name).TARGET


def compile(
    program: Program, engine_name: str, *, threads: int | None = None, path: str | os.PathLike[str] | None = None
) -> Runner:
    """The Program lowered to an engine and ready to run.

    ``threads`` defaults to all cores. The artefact is written to ``path`` with the engine's own ending added
    where it is lacking, or to a temporary folder that goes when Python ends.
    Raises InputError where the engine is unknown, not installed, or cannot run the Program.
    """
    module = engine(engine_name)
    if reason := module.unsupported(program.method):
        raise InputError(f"{engine_name} cannot run {program.method}: {reason}")
    ending = module.artefact_name(program)
    file = Path(path) if path is not None else Path(_scratch().name) / f"{id(program)}{ending}"
    if not file.name.endswith(ending):
        file = file.with_name(file.name + ending)
    module.lower(program, file)
    return load_artefact(engine_name, file, threads)


def load_artefact(engine_name: str, path: Path, threads: int | None = None) -> Runner:
    """A Runner on an artefact that ``compile`` wrote earlier."""
    threads = threads or os.cpu_count() or 1
    return Runner(engine_name, threads, path, engine(engine_name).load(path, threads))


_scratch_folders: list[tempfile.TemporaryDirectory[str]] = []


def _scratch() -> tempfile.TemporaryDirectory[str]:
    if not _scratch_folders:
        _scratch_folders.append(tempfile.TemporaryDirectory(prefix="zeropoint-"))
    return _scratch_folders[0]
