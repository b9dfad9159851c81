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
from zeropoint.graph.operators import FAKE_QUANTIZE, WEIGHTED, family, ungrouped
from zeropoint.graph.program import Program, at_batch
from zeropoint.graph.quantizers import is_wide

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
    quantized = [node for node in program.module.graph.nodes if _is_quantized(node)]
    if not quantized:
        return Integers(0.0, ())
    counted = multiply_accumulates(program)
    inside = engine(runner.engine).integer_operators(at_batch(program, 1), runner.artefact)
    done = sum(count for name, count in counted.items() if name in inside)
    left = tuple(_described(node) for node in quantized if node.name not in inside)
    return Integers(done / max(sum(counted.values()), 1), left)


def _is_quantized(node: Node) -> bool:
    """Whether a product of tensors has quantizers on both of them, which engines have integer kernels for."""
    description = WEIGHTED.get(node.target)
    if description is None and family(node) != "product":
        return False
    positions = (description.input, description.weight) if description else (0, 1)
    factors = [ungrouped(node.args[position]) for position in positions]  # type: ignore[arg-type]
    return all(
        isinstance(factor, Node) and factor.target in FAKE_QUANTIZE and not is_wide(factor)
        for factor in factors
    )


def _described(node: Node) -> str:
    lines = re.findall(r'File "([^"]+)", line (\d+)', str(node.meta.get("stack_trace") or ""))
    lines = [(file, line) for file, line in lines if not file.startswith(NOT_THE_USERS)]
    place = " at {}:{}".format(*lines[-1]) if lines else ""
    return f"{fx.module_name(node)} ({node.target}){place}"
