"""Capture: any ``nn.Module``, unedited, to a float Program of ATen operators without side effects."""

import contextlib
import copy
import inspect
import io
import keyword
import logging
import operator
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import Graph, GraphModule, Interpreter, Node

from zeropoint.errors import InputError, InputWarning
from zeropoint.graph import edits as fx
from zeropoint.graph.constants import fold_constants
from zeropoint.graph.operators import aten
from zeropoint.graph.padding import packing_encoders, zeros_at_padding
from zeropoint.graph.program import Program, flat_tensors
from zeropoint.graph.verify import check_capture
from zeropoint.torch_private.operators import signature
from zeropoint.torch_private.recurrent import shapes_alone


def capture(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Tensor],
    *,
    free_sizes: bool = False,
    origin: str = "",
) -> Program:
    """The float Program that computes what ``model`` does in eval mode.

    ``example_inputs`` is one tensor or the positional tensors of one call, batch first. The batch size stays
    free if the model allows it; with ``free_sizes`` so does every other size, such as height and width or
    the length of a sequence, and a warning names those that the model fixes, and by what. Neither the model,
    its mode nor its weights are changed; the Program shares the weights' storage if the model is float32
    on the CPU; else it holds float32 CPU copies. It takes float32 inputs if the model takes another float
    type. What the model writes into its inputs or buffers is not kept: a Program has no state.

    Raises InputError if the model fails on the example inputs or cannot be exported, with the operator and
    the line of the user's code.

    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    >>> program = zp.capture(model, torch.rand(1, 3, 2, 2))
    >>> program(torch.rand(5, 3, 2, 2))[0].shape
    torch.Size([5, 3])
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    if not inputs or not all(isinstance(tensor, Tensor) for tensor in inputs):
        raise InputError(
            "example inputs must be a tensor or a sequence of tensors: the arguments of one call"
        )
    inputs = tuple(
        (tensor.detach().float() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for tensor in inputs
    )
    model = _float_on_cpu(_unwrapped(model))
    if empty := [number for number, tensor in enumerate(inputs, 1) if not tensor.numel()]:
        raise InputError(f"example input {empty[0]} is empty; give at least one item")
    exported, dynamic = _export(model, inputs, free_sizes)
    if free_sizes:
        _warn_of_fixed(exported, inputs)
    _alias_dropouts(exported.graph_module)
    module = _module_of(exported)
    if not _functionalize(module.graph):
        _shield_inputs(exported.graph_module)
        with shapes_alone():
            module = _module_of(exported.run_decompositions({}))
    _canonicalize(module.graph)
    fold_constants(module)
    with _in_eval_mode(model):
        check_capture(model, module, inputs)
    return Program(module, inputs, dynamic, origin=origin)


def _unwrapped(model: object) -> nn.Module:
    """The module in what a user may hold; raises InputError for what is none, or cannot be exported."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _unwrapped(model.module)
    if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):  # of torch.compile
        return _unwrapped(inner)
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("a TorchScript module cannot be exported; give the nn.Module that it was made from")
    if not isinstance(model, nn.Module):
        raise InputError(f"the model is a {type(model).__name__}; give an nn.Module")
    if any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()]):
        raise InputError("the model is on the meta device and has no weights; load them first")
    return model


def _float_on_cpu(model: nn.Module) -> nn.Module:
    tensors = [*model.parameters(), *model.buffers()]
    if all(
        t.device.type == "cpu" and (t.dtype == torch.float32 or not t.is_floating_point()) for t in tensors
    ):
        return model
    return copy.deepcopy(model).float().cpu()


def _export(model: nn.Module, inputs: tuple[Tensor, ...], free_sizes: bool) -> tuple[ExportedProgram, bool]:
    """The exported model and whether its batch size is free."""
    with _in_eval_mode(model), _as_input_errors():
        packing = packing_encoders(model, lambda: _try_out(model, inputs))
        # Exporting at batch 1 would bake in the 1, since the exporter treats sizes 0 and 1 as constants.
        batches = tuple(_at_least_two(tensor) for tensor in inputs)
        first = tuple(set(range(tensor.dim())[:1]) for tensor in inputs)
        with _quiet(), zeros_at_padding(packing), shapes_alone():
            free = _free_axes(model, batches) if free_sizes else first
            for axes in (free, first) if free != first else (first,):
                with contextlib.suppress(Exception):
                    exported = _export_free(model, batches, axes)
                    if _is_batch_free(exported):
                        return exported, True
            return torch.export.export(model, inputs), False


@contextlib.contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """A model in eval mode, and in its own again afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def _as_input_errors() -> Iterator[None]:
    """What the exporter raises as one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"the model cannot be exported: {_cause(error)}") from error


Axes = tuple[set[int], ...]
"""Some axes of each input."""


def _export_free(model: nn.Module, inputs: tuple[Tensor, ...], axes: Axes) -> ExportedProgram:
    shapes = tuple(dict.fromkeys(free, Dim.AUTO) or None for free in axes)
    return torch.export.export(model, inputs, dynamic_shapes=_wrap(model, shapes))


def _free_axes(model: nn.Module, inputs: tuple[Tensor, ...]) -> Axes:
    """The axes that the exporter can leave free, but for those that it ties to others without saying so.

    Where a flattened image enters a linear layer it finds that height times width has to be a constant, and
    calls both free. It notes as many equations that a multiple of the size fulfils, such as of remainders.
    """
    every = tuple(set(range(tensor.dim())) for tensor in inputs)
    try:
        values = _input_values(_export_free(model, inputs, every))
    except Exception:  # then the batch may still be free
        return tuple({0} & axes for axes in every)
    sizes = [size for value in values for size in value.shape if _symbols(size)]
    twice = {size.node.expr: 2 * size.node.hint for size in sizes}
    environment = sizes[0].node.shape_env if sizes else None
    guards = [environment.replace(guard.expr) for guard in environment.guards] if environment else []
    equations = [
        guard for guard in guards if isinstance(guard, sympy.Eq) and guard.subs(twice) is not sympy.true
    ]
    tied = {symbol for equation in equations for symbol in equation.free_symbols}
    return tuple(
        {axis for axis, size in enumerate(value.shape) if not axis or _symbols(size) - tied}
        for value in values
    )


def _input_values(exported: ExportedProgram) -> list[Any]:
    """The fake tensors of the model's inputs, in order."""
    names = exported.graph_signature.user_inputs
    return [node.meta["val"] for node in exported.graph.nodes if node.name in names]


def _symbols(size: Any) -> set[Any]:
    """The symbols in a size; none in one that is fixed."""
    return size.node.expr.free_symbols if isinstance(size, torch.SymInt) else set()


def _warn_of_fixed(exported: ExportedProgram, inputs: tuple[Tensor, ...]) -> None:
    """Names the axes that did not come out free, each with the module that takes no other size."""
    module = _module_of(exported)
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


def _try_out(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Runs the model once, on copies of the inputs and buffers, into which it may write."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.no_grad():
            output = torch.func.functional_call(model, buffers, tuple(tensor.clone() for tensor in inputs))
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise InputError(f"the model fails on inputs of shape {shapes}: {_cause(error)}") from error
    found = flat_tensors(output)
    if not found:
        raise InputError(f"the model returns {type(output).__name__} without a tensor; return its outputs")
    if any(one.is_floating_point() and bool(one.isnan().all()) for one in found if one.numel()):
        raise InputError("an output of the model is NaN on the example; check its weights and the inputs")


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


def _wrap(model: nn.Module, shapes: tuple[Any, ...]) -> Any:
    """Dynamic shapes in the form export wants: those of ``*args`` in a tuple of their own."""
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return shapes
    first = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:first], shapes[first:])


def _at_least_two(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor]) if tensor.dim() and tensor.shape[0] == 1 else tensor


def _is_batch_free(exported: ExportedProgram) -> bool:
    """Whether dimension 0 of every input may take any size: the exporter may have found that it cannot."""
    sizes = [value.shape[0] for value in _input_values(exported) if value.dim()]
    symbols = [_symbols(size) for size in sizes]
    ranges = [exported.range_constraints.get(symbol) for of in symbols for symbol in of]
    bounded = any(bounds is not None and bounds.upper < sys.maxsize // 2 for bounds in ranges)
    return bool(sizes) and all(symbols) and not bounded


def _cause(error: Exception) -> str:
    """One line: the error's first sentence, and the last line of code in it that is not a library's."""
    library = str(Path(torch.__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parent)
    user = [frame for frame in frames if not frame.filename.startswith((library, ours, "<"))]
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    traced = re.findall(r"torch\.ops\.([\w.]+)\(", str(getattr(error, "partial_fx_graph", "")))
    operator_name = f" (operator {traced[-1]})" if traced else ""
    place = f", at {user[-1].filename}:{user[-1].lineno}: {user[-1].line}" if user else ""
    return f"{type(error).__name__}: {message}{operator_name}{place}"


def _rename_tensors(exported: ExportedProgram) -> None:
    """Gives parameters and buffers names that Python code can spell, as engines' exporters write such code.

    Modules may be called ``conv-1`` or ``class``. The modules that operators come from keep their names.
    """
    taken = {spec.target for spec in exported.graph_signature.input_specs if spec.target}
    for spec in exported.graph_signature.input_specs:
        if spec.target is None or (name := _spelled(spec.target)) == spec.target:
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


def _module_of(exported: ExportedProgram) -> GraphModule:
    _rename_tensors(exported)
    module = exported.module(check_guards=False)
    assert isinstance(module, GraphModule)
    return module


def _alias_dropouts(module: GraphModule) -> None:
    """Says in the graph what a dropout does in eval mode: it gives back its very input, not a copy."""
    for node in module.graph.nodes:
        if node.target in _DROPOUTS and node.args[2] is False:  # else the user wants it on in eval mode too
            node.target, node.args, node.kwargs = aten.alias.default, node.args[:1], {}
    module.recompile()


def _functionalize(graph: Graph) -> bool:
    """Turns in-place operators into their pure twins; False where one writes to memory that others read.

    Far faster than re-tracing the model, and nearly all in-place operators in models are of this easy kind:
    ``relu_`` on a convolution's output, ``add_`` of a shortcut.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    root, writes = _memory(graph)
    for node in writes:
        pure, written = _pure_twin(node), node.args[0]
        read_later = [
            other
            for other in order
            if root.get(other, other) is root.get(node)
            and other not in (written, node)
            and order[other] < order[node]
            and any(order[user] > order[node] for user in other.users)
        ]
        if pure is None or read_later or not isinstance(written, Node):
            return False
        later = {user for user in written.users if order[user] > order[node]}
        written.replace_all_uses_with(node, delete_user_cb=later.__contains__)
        node.target = pure
        for other in list(root):
            if root[other] is root[node] and order[other] > order[node]:
                root[other] = node
        del root[node]
    return True


def _memory(graph: Graph) -> tuple[dict[Node, Node], list[Node]]:
    """For every view the node that owns the memory it looks into, and the nodes that write, in order."""
    root: dict[Node, Node] = {}
    writes: list[Node] = []
    for node in graph.nodes:
        first = node.args[0] if node.op == "call_function" and node.args else None
        schema = signature(node.target)
        if schema is not None and schema.is_mutable:
            writes.append(node)
        views = schema is not None and schema.arguments and schema.arguments[0].alias_info is not None
        part_of_views = node.target is operator.getitem and first in root  # one of those that a split gives
        if isinstance(first, Node) and (views or part_of_views):
            root[node] = root.get(first, first)
    return root, writes


def _shield_inputs(module: GraphModule) -> None:
    """Has a graph that writes to its inputs or buffers write to copies of them."""
    root, writes = _memory(module.graph)
    for owner in {root[node] for node in writes if node in root and root[node].op == "placeholder"}:
        before = set(owner.users)
        with module.graph.inserting_before(next(iter(owner.users))):
            clone = module.graph.call_function(aten.clone.default, (owner,))
        clone.meta = {"val": owner.meta["val"]}
        owner.replace_all_uses_with(clone, delete_user_cb=before.__contains__)
    module.recompile()


def _pure_twin(node: Node) -> Any:
    """``aten.relu.default`` for ``aten.relu_.default``; None where there is none of the same arguments."""
    packet, _, overload = str(node.target).removeprefix("aten.").rpartition(".")
    if not packet.endswith("_") or packet == "copy_":
        return None
    twin: Any = getattr(getattr(aten, packet.removesuffix("_"), None), overload, None)
    names = [[a.name for a in signature(one).arguments] for one in (twin, node.target) if one]
    return twin if names[0] == names[-1] else None


_DROPOUTS = {
    getattr(aten, f"{kind}dropout{inplace}").default
    for kind in ("", "feature_", "alpha_", "feature_alpha_")
    for inplace in ("", "_")
}
# What Python's & | ^ are traced to, and the usual name.
_BITWISE = {
    getattr(getattr(aten, f"__{name}__"), overload): getattr(getattr(aten, f"bitwise_{name}"), overload)
    for name in ("and", "or", "xor")
    for overload in ("Tensor", "Scalar")
}
_IDENTITIES = {aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default}


def _canonicalize(graph: Graph) -> None:
    """One spelling per operation: no identities and checks, ``batch_norm``, ``hardtanh`` for ReLU6."""
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _IDENTITIES:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
        elif node.target in _BITWISE:
            node.target = _BITWISE[node.target]
        elif node.target is aten.mean.dim and not node.args[1]:  # over all of them
            fx.replace_argument(node, 1, list(range(node.args[0].meta["val"].dim())))
        elif node.target is aten.relu6.default:
            node.target, node.args = aten.hardtanh.default, (node.args[0], 0.0, 6.0)
        elif node.target is aten._native_batch_norm_legit_no_training.default:
            with graph.inserting_before(node):
                x, weight, bias, mean, variance, momentum, epsilon = node.args
                arguments = (x, weight, bias, mean, variance, False, momentum, epsilon, False)
                norm = graph.call_function(aten.batch_norm.default, arguments)
                norm.meta = {**node.meta, "val": node.meta["val"][0]}
            for user in list(node.users):
                if user.target is operator.getitem and user.args[1] == 0:
                    user.replace_all_uses_with(norm)
