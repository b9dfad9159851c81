"""Integers: the share of a model's arithmetic that an engine does in integers, and what is left."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.fx import Node

from zeropoint.engines import Runner
from zeropoint.engines import find as engine
from zeropoint.graph import edits as fx
from zeropoint.graph.macs import multiply_accumulates
from zeropoint.graph.program import Program, at_batch
from zeropoint.graph.quantizers import multiplies_quantized

NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(fx.__file__).parent))
"""Folders of code that calls a model's layers where it is no code of the model, as that of nn.Sequential."""


@dataclass(frozen=True)
class Integers:
    """``share``: of the multiply-accumulates that run in int8, a fraction of 1.

    ``fallbacks``: the operators that are quantized, but that the engine runs in float all the same, each as
    ``module (operator)`` with the line of the model's code if that is known.
    """

    share: float
    fallbacks: tuple[str, ...]


def integers(program: Program, runner: Runner) -> Integers:
    """What ``runner``, on which ``program`` was compiled, computes in integers; runs the Program once."""
    quantized = [node for node in program.module.graph.nodes if multiplies_quantized(node)]
    if not quantized:
        return Integers(0.0, ())
    counted = multiply_accumulates(program)
    inside = engine(runner.engine).integer_operators(at_batch(program, 1), runner.artefact)
    done = sum(count for name, count in counted.items() if name in inside)
    left = tuple(_described(node) for node in quantized if node.name not in inside)
    return Integers(done / max(sum(counted.values()), 1), left)


def _described(node: Node) -> str:
    lines = re.findall(r'File "([^"]+)", line (\d+)', str(node.meta.get("stack_trace") or ""))
    lines = [(file, line) for file, line in lines if not file.startswith(NOT_THE_USERS)]
    place = " at {}:{}".format(*lines[-1]) if lines else ""
    return f"{fx.module_name(node)} ({node.target}){place}"
