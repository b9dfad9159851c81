"""Result: a model with parts on an engine, how close it is to the float one, and its folder."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from torch import nn

from zeropoint import engines
from zeropoint.errors import Count, InputError, check_value, closest
from zeropoint.files import as_type, new_folder, read_json
from zeropoint.graph.capture import unwrapped
from zeropoint.graph.program import Program, load
from zeropoint.parts.classes import class_name, of_class
from zeropoint.parts.decoder import OnEngineDecoder
from zeropoint.parts.replace import OnEngine, replaced

LIST = "parts.json"
VERSION = 1
FIX = "save the parts again"


@dataclass(frozen=True)
class Part:
    """A submodule that runs on an engine.

    ``calls`` is how often the calibration data called it, ``share`` what it does of the multiply-accumulates
    of the model, 0 to 1, and ``sqnr_db`` the SQNR in dB of its outputs on the engine to those of the float
    module on the same inputs. ``program`` is quantized, and ``forward`` calls its runner.
    """

    name: str
    calls: int
    share: float
    sqnr_db: float
    program: Program = field(repr=False)
    forward: OnEngine | OnEngineDecoder = field(repr=False)


@dataclass(frozen=True)
class Refused:
    """A submodule that cannot be a part, and why. It stays as it is; the modules in it are tried."""

    name: str
    reason: str


@dataclass(frozen=True)
class Output:
    """How close an output tensor of the whole model is to the float model's, over the calibration batches.

    ``name`` is its path in what the model gives back. ``sqnr_db`` is of floating-point numbers, ``equal`` the
    share of other values, such as tokens, that are the same. Both are None where shapes differ, as they do if
    one model finds more boxes.
    """

    name: str
    sqnr_db: float | None = None
    equal: float | None = None


@dataclass(frozen=True)
class Parts:
    """A model with parts on an engine. ``model`` is a copy of the user's in eval mode, called as before.

    >>> parts = zp.quantize_parts(model, batches, parts="0")
    >>> [part.name for part in parts.parts]
    ['0']
    >>> parts.model(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 5])
    """

    model: nn.Module = field(repr=False)
    engine: str
    parts: tuple[Part, ...]
    refused: tuple[Refused, ...]
    outputs: tuple[Output, ...]

    @property
    def share(self) -> float:
        """What the parts do of the multiply-accumulates of the model, 0 to 1."""
        return min(1.0, sum(part.share for part in self.parts))  # a rounded sum

    @property
    def sqnr_db(self) -> float | None:
        """The least SQNR of the outputs of the whole model; None if none has one."""
        return min((one.sqnr_db for one in self.outputs if one.sqnr_db is not None), default=None)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the Programs of all parts and a list of them into a new folder for ``load_parts``.

        Raises InputError if the folder holds something or cannot be written.
        """
        outputs = [_Output(one.name, _text(one.sqnr_db), one.equal) for one in self.outputs]
        listed = _List(VERSION, self.engine, [*map(_row, self.parts)], [*self.refused], outputs)
        with new_folder(folder) as place:
            for number, part in enumerate(self.parts):
                part.program.save(place / _file(number, part.name))
            (place / LIST).write_bytes(msgspec.json.format(msgspec.json.encode(listed)) + b"\n")


@dataclass(frozen=True)
class _Row:
    """A part in the list. ``dtypes`` are of its output tensors, ``returns`` the class that holds these."""

    name: str
    calls: int
    share: float
    sqnr_db: str | None  # text, since JSON has no infinity
    dtypes: list[str]
    returns: str
    is_decoder: bool = False


@dataclass(frozen=True)
class _Output:
    name: str
    sqnr_db: str | None
    equal: float | None


@dataclass(frozen=True)
class _List:
    version: int
    engine: str
    parts: list[_Row]
    refused: list[Refused]
    outputs: list[_Output]


def load_parts(model: nn.Module, folder: str | os.PathLike[str], *, threads: int | None = None) -> Parts:
    """The parts that ``Parts.save`` wrote, compiled and put into a copy of the user's ``model``.

    ``model`` is the float model that they were made from; the weights of the parts come from the folder.
    ``threads`` are the engine's, by default all cores. No code from the folder is run.

    Raises InputError for a folder that is incomplete, and for a model that lacks a part.

    >>> zp.quantize_parts(model, batches, parts="0").save("saved")
    >>> zp.load_parts(model, "saved").model(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 5])
    """
    check_value("threads", threads, Count | None)
    path = Path(folder) / LIST
    record = read_json(path, "give a folder that Parts.save wrote")
    version = record.get("version") if isinstance(record, dict) else None
    if version != VERSION:
        raise InputError(f"{path} is of version {version}; this zeropoint reads {VERSION}: {FIX}")
    listed = as_type(record, _List, path, FIX)
    network = unwrapped(model)
    names = [name for name, _ in network.named_modules()]
    parts = []
    for number, row in enumerate(listed.parts):
        if row.name not in names:
            raise InputError(f"the model has no module '{row.name}'; {closest(row.name, names)}")
        program = of_class(load(path.with_name(_file(number, row.name))), row.returns)
        forward: OnEngine | OnEngineDecoder
        if row.is_decoder:
            runner = engines.compile(program, listed.engine, threads=threads, shapes=0)
            forward = OnEngineDecoder(runner, network)
        else:
            runner = engines.compile(program, listed.engine, threads=threads)
            forward = OnEngine(runner, tuple(map(_dtype, row.dtypes)))
        sqnr_db = _number(row.sqnr_db) or 0.0
        parts.append(Part(row.name, row.calls, row.share, sqnr_db, program, forward))
    outputs = tuple(Output(one.name, _number(one.sqnr_db), one.equal) for one in listed.outputs)
    made = replaced(network, {part.name: part.forward for part in parts})
    return Parts(made, listed.engine, tuple(parts), tuple(listed.refused), outputs)


def _row(part: Part) -> _Row:
    if isinstance(part.forward, OnEngineDecoder):
        return _Row(part.name, part.calls, part.share, _text(part.sqnr_db), [], "", is_decoder=True)
    dtypes = [str(dtype).removeprefix("torch.") for dtype in part.forward.dtypes]
    returns = class_name(part.program)
    return _Row(part.name, part.calls, part.share, _text(part.sqnr_db), dtypes, returns)


def _file(number: int, name: str) -> str:
    """The name of a part's file, whatever a module is called."""
    return f"{number}-{re.sub(r'[^0-9A-Za-z._-]', '_', name) or 'model'}.pt2"


def _text(value: float | None) -> str | None:
    return None if value is None else str(value)


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise InputError(f"'{name}' is no type of a tensor; {FIX}")
    return found
