"""Classes: what holds the output tensors of a part, which a saved Program keeps without its class."""

import dataclasses
import sys
from typing import Any

from zeropoint.data.nested import Leaf
from zeropoint.graph.program import Program


def class_name(program: Program) -> str:
    """The module and name of the dataclass or named tuple that the model gives; empty for anything else."""
    kind = type(program.signature.outputs)
    is_named = _is_record(kind) and kind is not Leaf
    return f"{kind.__module__}:{kind.__qualname__}" if is_named else ""


def of_class(program: Program, name: str) -> Program:
    """The Program with outputs of the class of that name, if it is imported already."""
    module, _, qualified = name.partition(":")
    kind: Any = sys.modules.get(module)
    for part in qualified.split("."):
        kind = getattr(kind, part, None)
    outputs = program.signature.outputs
    if not (isinstance(kind, type) and _is_record(kind) and isinstance(outputs, dict)):
        return program
    signature = dataclasses.replace(program.signature, outputs=kind(**outputs))
    return dataclasses.replace(program, signature=signature)


def _is_record(kind: type) -> bool:
    return dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")
