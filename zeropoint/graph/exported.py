"""Exported: a graph whose nodes have shapes as an ExportedProgram, put together without tracing it again."""

from collections import Counter
from collections.abc import Collection
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    SymIntArgument,
    TensorArgument,
)
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from zeropoint.data.nested import plain, restore
from zeropoint.graph.signature import Signature
from zeropoint.torch_private.graphs import VERIFIER
from zeropoint.torch_private.operators import is_higher_order, on_fake, signature
from zeropoint.torch_private.trees import tree_leaves, tree_structure


def is_size(node: Node) -> bool:
    """Whether a node's value is a symbolic size, not a tensor."""
    return isinstance(node.meta.get("val"), torch.SymInt)


def has_branches(module: GraphModule) -> bool:
    """Whether there are graphs in the graph, of a ``cond`` or a loop: such a module has to be traced."""
    return any(is_higher_order(node.target) for node in module.graph.nodes)


def keep_names(exported: ExportedProgram) -> None:
    """Gives operators the names of those that they were traced from, in place: kernels are found by them.

    Outputs keep their own, which the signature holds, and so does what several were made of one.
    """
    fixed = {spec.arg.name for spec in exported.graph_signature.output_specs if hasattr(spec.arg, "name")}
    traced = {
        node: node.meta["from_node"][0].name
        for node in exported.graph.nodes
        if node.op == "call_function" and node.meta.get("from_node") and node.name not in fixed
    }
    names = Counter(traced.values())
    taken = {node.name for node in exported.graph.nodes if names[traced.get(node, "")] != 1}
    while clashing := [node for node, name in traced.items() if names[name] == 1 and name in taken]:
        taken |= {node.name for node in clashing}
        for node in clashing:
            del traced[node]
    for node, name in traced.items():
        if names[name] == 1:
            node.name = name


def complete_shapes(module: GraphModule) -> None:
    """Puts the fake tensor of its value on every node that a pass has put in without, in place."""
    mode = _fake_mode(module)
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if node.op == "get_attr":
            tensor = attrgetter(str(node.target))(module)
            if not isinstance(tensor, Tensor):  # the graph of a branch
                continue
            if getattr(value, "fake_mode", None) is not mode or value.shape != tensor.shape:
                node.meta["val"] = mode.from_tensor(tensor.detach(), static_shapes=True)
        elif node.op == "call_function" and (value is None or _is_of_another(value, mode)):
            node.meta["val"] = _computed(module, node)
        elif isinstance(value, tuple) and len(getattr(signature(node.target), "returns", ())) == 1:
            node.meta["val"] = list(value)  # one result that is a list; by a tuple exporters know several


def _is_of_another(value: Any, mode: Any) -> bool:
    """Whether a value is a tensor itself, or of another mode: its sizes would be free in an export."""
    return isinstance(value, Tensor) and getattr(value, "fake_mode", None) is not mode


def refresh(module: GraphModule, changed: Collection[Node]) -> None:
    """Puts right what nodes that depend on ``changed`` ones have recorded of their values, in place.

    Memory may lie in another order now, of which a ``view`` is not possible: it becomes a ``reshape``.
    """
    complete_shapes(module)
    stale = {user for node in changed for user in node.users}
    for node in module.graph.nodes:
        if node not in stale or node.op != "call_function" or is_higher_order(node.target):
            continue
        before = node.meta.get("val")
        try:
            node.meta["val"] = _computed(module, node)
        except (RuntimeError, ValueError):
            if node.target is not torch.ops.aten.view.default:
                raise
            node.target = torch.ops.aten.reshape.default
            node.meta["val"] = _computed(module, node)
        if _layout(node.meta["val"]) != _layout(before):
            stale |= node.users.keys()
    module.recompile()


def _layout(value: Any) -> list[Any]:
    """Sizes and strides of the tensors in a value."""
    parts = value if isinstance(value, list | tuple) else [value]
    return [(part.shape, part.stride()) if isinstance(part, Tensor) else part for part in parts]


def _computed(module: GraphModule, node: Node) -> Any:
    """The fake value of an operator on the values that its operands have recorded."""
    arguments, keywords = map_arg((node.args, node.kwargs), lambda source: source.meta["val"])
    target: Any = node.target
    with _fake_mode(module), torch.no_grad():
        return on_fake(target, *arguments, **keywords)


def _fake_mode(module: GraphModule) -> Any:
    """The mode of the fake tensors that capture has left on the inputs."""
    return module.graph.find_nodes(op="placeholder")[0].meta["val"].fake_mode


def assemble(
    module: GraphModule,
    kind: type[ExportedProgram] = ExportedProgram,
    *,
    signature: Signature | None = None,
) -> ExportedProgram:
    """What ``torch.export`` makes of ``module``, of the given class: its tensors become inputs of the graph.

    The shapes are those on the nodes, completed where a node lacks its own. With a ``signature`` it is called
    as the model is, without the constants, and gives the outputs in tuples, lists and dicts.
    """
    complete_shapes(module)
    graph, env = Graph(), dict[Node, Node]()
    inputs: list[InputSpec] = []
    state: dict[str, Tensor] = {}
    lifted: dict[str, Node] = {}
    for node in module.graph.find_nodes(op="get_attr"):
        name = str(node.target)
        if name not in lifted:
            path, _, leaf = name.rpartition(".")
            state[name] = getattr(module.get_submodule(path), leaf)
            is_parameter = isinstance(state[name], nn.Parameter)
            lifted[name] = graph.placeholder(f"{'p' if is_parameter else 'b'}_{name.replace('.', '_')}")
            lifted[name].meta = {"val": node.meta["val"]}
            kind_of, persistent = (InputKind.PARAMETER, None) if is_parameter else (InputKind.BUFFER, True)
            inputs.append(InputSpec(kind_of, TensorArgument(lifted[name].name), name, persistent))
        env[node] = lifted[name]
    for node in module.graph.nodes:
        if node.op not in ("get_attr", "output"):
            env[node] = graph.node_copy(node, env.__getitem__)
            env[node].meta.setdefault("nn_module_stack", {})  # without it ONNX's exporter logs a warning
        if node.op == "placeholder":
            inputs.append(InputSpec(InputKind.USER_INPUT, TensorArgument(env[node].name), None))
    results: Any = map_arg(module.graph.output_node().args[0], env.__getitem__)
    names = [str(node.target) for node in module.graph.find_nodes(op="placeholder")]
    calling: tuple[Any, Any] = (tuple(names), {}), tuple(results) if len(results) > 1 else results[0]
    if signature is not None:
        args, kwargs = signature.plain_call()
        names = [*names[: len(tree_leaves(args))], *kwargs]
        calling = (args, kwargs), restore(plain(signature.outputs, keep=True), results)
        results = tree_leaves(calling[1])
    graph.output(tuple(results))
    return kind(
        root=nn.Module(),
        graph=graph,
        graph_signature=ExportGraphSignature(
            inputs,
            [OutputSpec(OutputKind.USER_OUTPUT, _argument(result), None) for result in results],
        ),
        state_dict=state,
        range_constraints=_ranges(module),
        module_call_graph=[
            ModuleCallEntry(
                "", ModuleCallSignature([], [], tree_structure(calling[0]), tree_structure(calling[1]), names)
            )
        ],
        constants={},
        verifiers=[VERIFIER],
    )


def _argument(value: Any) -> TensorArgument | SymIntArgument | ConstantArgument:
    if isinstance(value, Node):
        return SymIntArgument(value.name) if is_size(value) else TensorArgument(value.name)
    return ConstantArgument("", value)


def _ranges(module: GraphModule) -> dict[Any, Any]:
    """The range of every symbolic size of an input."""
    sizes = [
        size
        for node in module.graph.find_nodes(op="placeholder")
        for size in getattr(node.meta["val"], "shape", ())
        if isinstance(size, torch.SymInt)
    ]
    symbols = {symbol: size.node.shape_env for size in sizes for symbol in size.node.expr.free_symbols}
    return {symbol: shapes.bound_sympy(symbol) for symbol, shapes in symbols.items()}
