"""Artefacts: the files that engines run, recognised by the endings of their names."""

import os
from pathlib import Path

from zeropoint import engines
from zeropoint.engines import Runner
from zeropoint.engines.engine import PROCESSOR
from zeropoint.errors import Count, InputError, check_value, first_line
from zeropoint.targets.processor import warn_of


def endings() -> dict[str, str]:
    """The engine of each ending of an artefact's name."""
    return {ending: name for name in engines.NAMES for ending in engines.named(name).ENDINGS}


def engine_of(path: str | os.PathLike[str]) -> str | None:
    """The engine whose artefact ``path`` is by its name; None for other files."""
    name = Path(path).name
    return next((engine for ending, engine in endings().items() if name.endswith(ending)), None)


def is_compiled(path: str) -> bool:
    """Whether ``path`` is by its name an artefact that cannot be opened as a Program any more."""
    engine = engine_of(path)
    return engine is not None and not path.endswith(engines.named(engine).PROGRAM_ENDINGS)


def load(path: str | os.PathLike[str], threads: int | None = None) -> Runner:
    """A Runner on an artefact that ``compile`` or ``compare`` wrote; ``threads`` defaults to all cores.

    A compiled package of the torch engine is native code, which runs when it is loaded: load only your own.
    Raises InputError if a file is missing or damaged, if the name is not that of an artefact, and if the
    engine is not installed. Warns if the artefact was made for another kind of processor than this one.
    """
    check_value("threads", threads, Count | None)
    path = Path(path)
    name = engine_of(path)
    if name is None:
        raise InputError(
            f"{path} is not an artefact of an engine; give a file that ends in {', '.join(endings())}"
        )
    engine = engines.find(name)
    for file in engine.files(path):
        if not file.is_file():
            part = "" if file == path else f", which is part of {path}"
            raise InputError(f"no such file: {file}{part}")
    try:
        if problem := engine.damage(path):
            raise InputError(f"{name} cannot load {path}: {problem}; compile the model again")
        made_for = engine.metadata(path).get(PROCESSOR, "")
        warn_of(made_for, str(path), engines.computes_as(name, made_for))
        return engines.load_artefact(name, path, threads)
    except InputError:
        raise
    except Exception as error:  # a damaged file may fail in any way
        reason = first_line(error)
        raise InputError(f"{name} cannot load {path}: {reason}; compile the model again") from error
