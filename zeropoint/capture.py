"""Capture: any ``nn.Module``, unedited, to a float Program of ATen operators without side effects."""

import copy
import operator
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import Graph, GraphModule, Node

from zeropoint import graph as fx
from zeropoint.errors import InputError
from zeropoint.operators import aten
from zeropoint.program import Program


def capture(model: nn.Module, example_inputs: Tensor | Sequence[Tensor], *, origin: str = "") -> Program:
    """The float Program that computes what ``model`` does in eval mode.

    ``example_inputs`` is one tensor or the positional tensors of one call, batch first. The batch size stays
    free where the model allows it. Neither the model, its mode nor its weights are changed; the Program shares
    the weights' storage where the model is float32 on the CPU, and holds float32 CPU copies where it is not.

    Raises InputError where the model fails on the example inputs or cannot be exported, with the operator and
    the line of the user's code.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    if not inputs or not all(isinstance(tensor, Tensor) for tensor in inputs):
        raise InputError("example inputs must be a tensor or a sequence of tensors: the arguments of one call")
    exported, dynamic = _export(_float_on_cpu(model), tuple(tensor.cpu() for tensor in inputs))
    module = _module_of(exported)
    if not _functionalize(module.graph):
        module = _module_of(exported.run_decompositions({}))
        _functionalize(module.graph)
    _canonicalize(module.graph)
    fx.remove_unused(module)
    return Program(module, tuple(tensor.detach().cpu() for tensor in inputs), dynamic, origin=origin)


def _float_on_cpu(model: nn.Module) -> nn.Module:
    tensors = [*model.parameters(), *model.buffers()]
    if all(t.device.type == "cpu" and (t.dtype == torch.float32 or not t.is_floating_point()) for t in tensors):
        return model
    return copy.deepcopy(model).float().cpu()


def _export(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[ExportedProgram, bool]:
    """The exported model and whether its batch size is free."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise InputError(f"the model fails on inputs of shape {shapes}: {_cause(error)}") from error
    try:
        # Exporting at batch 1 would bake in the 1, since the exporter treats sizes 0 and 1 as constants.
        batches = tuple(_at_least_two(tensor) for tensor in inputs)
        shapes_free = tuple({0: Dim.AUTO} if tensor.dim() else None for tensor in inputs)
        try:
            exported = torch.export.export(model, batches, dynamic_shapes=_wrap(model, shapes_free))
        except Exception:
            return torch.export.export(model, inputs), False
        first = next((node for node in exported.graph.nodes if _is_user_input(exported, node)), None)
        size = first.meta["val"].shape[0] if first is not None and inputs[0].dim() else None
        return exported, isinstance(size, torch.SymInt)
    except Exception as error:
        raise InputError(f"the model cannot be exported: {_cause(error)}") from error
    finally:
        for module, training in modes.items():
            module.training = training


def _wrap(model: nn.Module, shapes: tuple[Any, ...]) -> Any:
    """Dynamic shapes in the form export wants: nested once more where ``forward`` takes ``*args``."""
    import inspect

    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    return (shapes,) if kinds and kinds[0] is inspect.Parameter.VAR_POSITIONAL else shapes


def _at_least_two(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor]) if tensor.dim() and tensor.shape[0] == 1 else tensor


def _is_user_input(exported: ExportedProgram, node: Node) -> bool:
    return node.op == "placeholder" and node.name in exported.graph_signature.user_inputs


def _cause(error: Exception) -> str:
    """One line: the error's first sentence, and the last line of code in it that is not a library's."""
    library = str(Path(torch.__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parent)
    user = [frame for frame in frames if not frame.filename.startswith((library, ours, "<"))]
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    operators = [word for word in str(error).split() if word.startswith(("aten.", "torch.ops."))]
    operator_name = f" (operator {operators[0].strip('.,()')})" if operators and operators[0] not in message else ""
    place = f", at {user[-1].filename}:{user[-1].lineno}: {user[-1].line}" if user else ""
    return f"{type(error).__name__}: {message}{operator_name}{place}"


def _module_of(exported: ExportedProgram) -> GraphModule:
    module = exported.module(check_guards=False)
    assert isinstance(module, GraphModule)
    return module


def _functionalize(graph: Graph) -> bool:
    """Turns in-place operators into their pure twins; False where one writes to memory that others still read.

    Far faster than re-tracing the model, and nearly all in-place operators in models are of this easy kind:
    ``relu_`` on a convolution's output, ``add_`` of a shortcut.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    root: dict[Node, Node] = {}  # the node that owns the memory that a view looks into
    for node in graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload) and node.args:
            alias = node.target._schema.arguments[0].alias_info
            if alias is not None and isinstance(node.args[0], Node):
                root[node] = root.get(node.args[0], node.args[0])
    for node in [node for node in root if node.target._schema.arguments[0].alias_info.is_write]:
        pure, written = _pure_twin(node), node.args[0]
        shared = [other for other in order if root.get(other, other) is root[node]]
        read_later = [
            other
            for other in shared
            if other not in (written, node) and order[other] < order[node]
            and any(order[user] > order[node] for user in other.users)
        ]  # fmt: skip
        if pure is None or read_later or root[node].op != "call_function":
            return False
        written.replace_all_uses_with(node, delete_user_cb=lambda user, node=node: order[user] > order[node])
        node.target = pure
        for other in list(root):
            if root[other] is root[node] and order[other] > order[node]:
                root[other] = node
        del root[node]
    return True


def _pure_twin(node: Node) -> Any:
    """``aten.relu.default`` for ``aten.relu_.default``; None where there is none of the same arguments."""
    packet, _, overload = str(node.target).removeprefix("aten.").rpartition(".")
    twin = getattr(getattr(aten, packet.removesuffix("_"), None), overload, None) if packet.endswith("_") else None
    if twin is None or packet == "copy_":
        return None
    same = [a.name for a in twin._schema.arguments] == [a.name for a in node.target._schema.arguments]
    return twin if same else None


_IDENTITIES = {
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.detach.default,
    aten.alias.default,
    aten.lift_fresh_copy.default,
}


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
