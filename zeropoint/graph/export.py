"""Export: a model through ``torch.export``, with the batch and other sizes free, to a graph module."""

import contextlib
import io
import keyword
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import sympy
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Interpreter, Node

from zeropoint.errors import InputWarning
from zeropoint.graph import edits as fx
from zeropoint.graph.batch import Batch
from zeropoint.graph.flat import PREFIX

Axes = tuple[set[int], ...]
"""Some axes of each input."""


def export_model(
    model: nn.Module, inputs: tuple[Tensor, ...], batch: Batch, free_sizes: bool
) -> tuple[ExportedProgram, bool]:
    """The exported model, and whether its batch may have any size.

    Without a batch the first axis of each input is free if the model allows it.
    """
    # Exporting at batch 1 would bake in the 1, since the exporter treats sizes 0 and 1 as constants.
    examples = tuple(map(_at_least_two, inputs, batch.inputs))
    if batch.is_known:
        first: Axes = tuple(set() if axis is None else {axis} for axis in batch.inputs)
    else:
        first = tuple(set(range(tensor.dim())[:1]) for tensor in inputs)
    with _quiet():
        free = _free_axes(model, examples, first) if free_sizes else first
        for axes in (free, first) if free != first else (first,):
            with contextlib.suppress(Exception):
                made = _export_free(model, examples, axes)
                if (settled := _without_constants(made, axes)) != axes:
                    made = _export_free(model, examples, settled)
                if _is_batch_free(made, batch):
                    return _named(made), batch.is_known
        return _named(torch.export.export(model, inputs)), False


def _export_free(model: nn.Module, inputs: tuple[Tensor, ...], axes: Axes) -> ExportedProgram:
    shapes = tuple(dict.fromkeys(free, Dim.AUTO) or None for free in axes)
    return torch.export.export(model, inputs, dynamic_shapes=shapes)


def _without_constants(exported: ExportedProgram, free: Axes) -> Axes:
    """The axes that came out free: the exporter gives some a symbol that can have one value."""
    values = _input_values(exported)
    return tuple(
        {axis for axis in axes if not isinstance(size := value.shape[axis], torch.SymInt) or _symbols(size)}
        for value, axes in zip(values, free, strict=True)
    )


def _free_axes(model: nn.Module, inputs: tuple[Tensor, ...], first: Axes) -> Axes:
    """The axes that the exporter can leave free, ``first`` among them, but for those tied in silence.

    Where a flattened image enters a linear layer it finds that height times width has to be a constant, and
    calls both free. It notes as many equations that a multiple of the size fulfils, such as of remainders.
    """
    every = tuple(set(range(tensor.dim())) for tensor in inputs)
    try:
        values = _input_values(_export_free(model, inputs, every))
    except Exception:  # then the batch may still be free
        return first
    sizes = [size for value in values for size in value.shape if _symbols(size)]
    twice = {size.node.expr: 2 * size.node.hint for size in sizes}
    environment = sizes[0].node.shape_env if sizes else None
    guards = [environment.replace(guard.expr) for guard in environment.guards] if environment else []
    equations = [
        guard for guard in guards if isinstance(guard, sympy.Eq) and guard.subs(twice) is not sympy.true
    ]
    tied = {symbol for equation in equations for symbol in equation.free_symbols}
    return tuple(
        {axis for axis, size in enumerate(value.shape) if axis in always or _symbols(size) - tied}
        for value, always in zip(values, first, strict=True)
    )


def _input_values(exported: ExportedProgram) -> list[Any]:
    """The fake tensors of the model's inputs, in order."""
    names = exported.graph_signature.user_inputs
    return [node.meta["val"] for node in exported.graph.nodes if node.name in names]


def _symbols(size: Any) -> set[Any]:
    """The symbols in a size; none in one that is fixed."""
    return size.node.expr.free_symbols if isinstance(size, torch.SymInt) else set()


def warn_of_fixed(exported: ExportedProgram, inputs: tuple[Tensor, ...]) -> None:
    """Names the axes that did not come out free, each with the module that takes no other size."""
    module = module_of(exported)
    fixed = [
        f"axis {axis} of input {number} stays {size}: {_reason(module, inputs, number - 1, axis)}"
        for number, value in enumerate(_input_values(exported), 1)
        for axis, size in enumerate(value.shape)
        if axis and isinstance(size, int)
    ]
    if fixed:
        warnings.warn(InputWarning("; ".join(fixed)), stacklevel=3)


def _reason(module: GraphModule, inputs: tuple[Tensor, ...], number: int, axis: int) -> str:
    """What fails where an axis of an input is longer by one."""
    longer = list(inputs)
    longer[number] = torch.cat([inputs[number], inputs[number].narrow(axis, 0, 1)], axis)
    run = _Tried(module)
    try:
        with torch.no_grad():
            run.run(*longer)
    except Exception:
        return f"{fx.module_name(run.last)} takes no other"
    if inputs[number].shape[axis] == 1:
        return "1 is a constant to the exporter; capture it on a longer example"
    return "the model's code depends on it"


class _Tried(Interpreter):
    """Remembers the node that it runs last."""

    last: Node

    def run_node(self, n: Node) -> Any:
        self.last = n
        return super().run_node(n)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter from the terminal: its warnings, log lines and, where it fails, whole graphs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _at_least_two(tensor: Tensor, axis: int | None) -> Tensor:
    return torch.cat([tensor, tensor], axis) if axis is not None and tensor.shape[axis] == 1 else tensor


def _is_batch_free(exported: ExportedProgram, batch: Batch) -> bool:
    """Whether the batch may have any size: the exporter may have found that it cannot."""
    values = zip(_input_values(exported), batch.inputs, strict=True)
    symbols = [_symbols(value.shape[axis]) for value, axis in values if axis is not None]
    ranges = [exported.range_constraints.get(symbol) for of in symbols for symbol in of]
    bounded = any(bounds is not None and bounds.upper < sys.maxsize // 2 for bounds in ranges)
    return all(symbols) and not bounded


def _named(exported: ExportedProgram) -> ExportedProgram:
    """The exported model with the names of the user's model: without the module that flattens its call."""
    _rename_tensors(exported, lambda name: name.removeprefix(PREFIX))
    for node in exported.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if stack:
            inner = {key: (path, kind) for key, (path, kind) in stack.items() if path}
            root = PREFIX.rstrip(".")
            node.meta["nn_module_stack"] = {
                key: (path.removeprefix(root).removeprefix("."), kind) for key, (path, kind) in inner.items()
            }
    return exported


def _rename_tensors(exported: ExportedProgram, rename: Callable[[str], str]) -> None:
    """Gives parameters and buffers other names, in place; modules that operators come from keep theirs."""
    taken = {spec.target for spec in exported.graph_signature.input_specs if spec.target}
    for spec in exported.graph_signature.input_specs:
        if spec.target is None or (name := rename(spec.target)) == spec.target:
            continue
        while name in taken:
            name += "_"
        taken.add(name)
        for tensors in (exported.state_dict, exported.constants):
            if spec.target in tensors:
                tensors[name] = tensors.pop(spec.target)
        spec.target = name


def _spelled(name: str) -> str:
    """A dotted name with underscores for what no identifier has; numbers stay, as of ``nn.Sequential``."""
    parts = [part if part.isdigit() else re.sub(r"\W|^(?=\d)", "_", part) for part in name.split(".")]
    return ".".join(f"{part}_" if keyword.iskeyword(part) else part for part in parts)


def module_of(exported: ExportedProgram) -> GraphModule:
    """The graph of an exported model over its weights.

    Their names are such that Python code can spell, since engines' exporters write such code, and modules may
    be called ``conv-1`` or ``class``.
    """
    _rename_tensors(exported, _spelled)
    module = exported.module(check_guards=False)
    assert isinstance(module, GraphModule)
    return module
