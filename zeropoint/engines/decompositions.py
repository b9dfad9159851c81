"""Decompositions: operators that an exporter does not know, taken apart into those that it does.

``ExportedProgram.run_decompositions`` traces the whole graph again for that: 10 s for EfficientNetV2-S. Here
it is given one example of each case, an operator with its shapes and settings, and what it makes of the
example is put in the place of every operator of the case.
"""

import functools
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from zeropoint.errors import InputError, first_line
from zeropoint.graph import edits as fx
from zeropoint.graph.exported import assemble, complete_shapes, has_branches, is_size, keep_names
from zeropoint.graph.operators import aten
from zeropoint.graph.program import Program, export
from zeropoint.torch_private.operators import composites_listed_once, has_kernel, is_operator


def decomposable(program: Program, module: GraphModule) -> ExportedProgram:
    """``module`` in the Program's place as an ExportedProgram whose nodes keep their names when decomposed.

    Without branches it is decomposed in this file's way, with them it is traced, and PyTorch does.
    """
    if has_branches(module):
        traced = export(program, module)
        decomposed = traced.run_decompositions

        def run_decompositions(*arguments: Any, **options: Any) -> ExportedProgram:
            found: ExportedProgram = decomposed(*arguments, **options)
            keep_names(found)
            return found

        traced.run_decompositions = run_decompositions
        return traced
    exported: Any = assemble(module, kind=_Decomposable)
    exported.source = module
    return cast(ExportedProgram, exported)


class _Decomposable(ExportedProgram):
    source: GraphModule

    def run_decompositions(self, decomp_table: Any = None, *_: Any, **__: Any) -> ExportedProgram:
        decompose(self.source, default_table() if decomp_table is None else decomp_table)
        return assemble(self.source)


def decompose(module: GraphModule, table: Any) -> None:
    """Puts what ``run_decompositions(table)`` makes of an operator in its place, under its name, in place."""
    complete_shapes(module)
    cases: dict[Any, list[Node]] = {}
    for node in module.graph.nodes:
        if _decomposes(node, table):
            cases.setdefault(_case(node), []).append(node)
    if cases:
        traced, bodies = _trace(module, [nodes[0] for nodes in cases.values()], table)
        size_of = _sizes(module.graph)
        for nodes, body in zip(cases.values(), bodies, strict=True):
            for node in nodes:
                _replace(module, node, traced, body, size_of)
        module.graph.eliminate_dead_code()


def _decomposes(node: Node, table: Any) -> bool:
    """Whether ``run_decompositions`` would not leave an operator as it is."""
    target: Any = node.target
    if not is_operator(target) or is_size(node):
        return False
    # A composite operator that is not even in the default table cannot be kept, say a ``reshape``.
    composite = has_kernel(target.name(), "CompositeImplicitAutograd")
    return target in table or (composite and target not in default_table())


@functools.cache
def default_table() -> dict[Any, Any]:
    """The operators that ``torch.export`` takes apart by default, and into what."""
    return torch.export.default_decompositions().materialize()


def _tensors(node: Node) -> list[Node]:
    """The different tensors that an operator takes, in order."""
    return [source for source in node.all_input_nodes if isinstance(source.meta["val"], Tensor)]


def _case(node: Node) -> tuple[Any, str]:
    """What tells operators apart that may decompose differently."""
    tensors = _tensors(node)

    def described(source: Node) -> Any:
        value = source.meta["val"]
        if isinstance(value, torch.SymInt):
            return str(value)
        return f"{tensors.index(source)}: {value.dtype} {tuple(value.shape)} {value.stride()}"

    return node.target, repr(map_arg((node.args, node.kwargs), described))


# Of symbolic sizes, by sympy's and torch's names.
_ARITHMETIC = {
    "Mul": operator.mul,
    "Add": operator.add,
    "FloorDiv": operator.floordiv,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
}
SizeOf = Callable[[torch.SymInt], Node | int]


@dataclass(frozen=True)
class Body:
    """An operator in a traced graph: its inputs, the nodes that compute it in order, and its results."""

    inputs: list[Node]
    nodes: list[Node]
    results: list[Node]


def _trace(module: GraphModule, examples: list[Node], table: Any) -> tuple[GraphModule, list[Body]]:
    """The examples side by side in one graph, decomposed."""
    graph = Graph()
    for node in module.graph.find_nodes(op="placeholder"):  # first, for symbolic sizes to be taken from them
        graph.node_copy(node)
    first = len(graph.nodes)
    envs: list[dict[Node, Any]] = []
    for i, example in enumerate(examples):
        envs.append(
            {source: graph.placeholder(f"example_{i}_{j}") for j, source in enumerate(_tensors(example))}
        )
        for source, placeholder in envs[-1].items():
            placeholder.meta = {"val": source.meta["val"]}
    size_of = _sizes(graph)
    outputs = []
    for example, env in zip(examples, envs, strict=True):
        env |= {source: size_of(source.meta["val"]) for source in example.all_input_nodes if is_size(source)}
        made = graph.node_copy(example, env.__getitem__)
        outputs.append(_parts(graph, made) if isinstance(made.meta["val"], (tuple, list)) else [made])
    graph.output(tuple(node for nodes in outputs for node in nodes))
    together = assemble(GraphModule(nn.Module(), graph))
    with warnings.catch_warnings(), composites_listed_once():  # torch warns of what it uses itself
        warnings.simplefilter("ignore", FutureWarning)
        try:
            traced = together.run_decompositions(table).module(check_guards=False)
        except InputError as error:  # to which torch adds lines of its own
            raise InputError(first_line(error)) from error

    inputs = iter(traced.graph.find_nodes(op="placeholder")[first:])
    results = iter(traced.graph.output_node().args[0])
    order = {node: position for position, node in enumerate(traced.graph.nodes)}
    bodies = []
    for env, nodes in zip(envs, outputs, strict=True):
        own = [next(results) for _ in nodes]
        body = sorted(_behind(own), key=order.__getitem__)
        bodies.append(Body([next(inputs) for source in env if not is_size(source)], body, own))
    return traced, bodies


def _parts(graph: Graph, node: Node) -> list[Node]:
    """The tensors in the value of a node, one node each."""
    parts = []
    for i, value in enumerate(node.meta["val"]):
        parts.append(graph.call_function(operator.getitem, (node, i)))
        parts[-1].meta = {"val": value}
    return parts


def _behind(results: list[Node]) -> set[Node]:
    """The nodes that compute ``results``, without sizes and inputs."""
    found: set[Node] = set()
    pending = list(results)
    while pending:
        node = pending.pop()
        if node.op != "placeholder" and node not in found and not is_size(node):
            found.add(node)
            pending += node.all_input_nodes
    return found


def _replace(module: GraphModule, node: Node, traced: GraphModule, body: Body, size_of: SizeOf) -> None:
    """Puts an operator's body in its place."""
    graph = module.graph
    env = dict(zip(body.inputs, _tensors(node), strict=True))

    def argument(source: Node) -> Any:
        return size_of(source.meta["val"]) if is_size(source) else env[source]

    for part in body.nodes:
        arguments, keywords = map_arg((part.args, part.kwargs), argument)
        if part.op == "get_attr":
            name = fx.set_tensor(module, f"{node.name}__{part.name}", fx.tensor_of(traced, part))
            with graph.inserting_before(node):
                env[part] = graph.get_attr(name)
        elif body.results == [part]:
            node.target, node.args, node.kwargs = part.target, arguments, keywords
            env[part] = node
        else:
            with graph.inserting_before(node):
                env[part] = graph.create_node(part.op, part.target, arguments, keywords)
        env[part].meta = {**node.meta, "val": part.meta["val"]}
    if isinstance(node.meta["val"], (tuple, list)):
        for item in list(node.users):
            position: Any = item.args[1]
            item.replace_all_uses_with(env[body.results[position]])
            graph.erase_node(item)
        graph.erase_node(node)
    elif env[body.results[0]] is not node:  # the operator's input, as it is
        node.replace_all_uses_with(env[body.results[0]])
        graph.erase_node(node)


def _sizes(graph: Graph) -> SizeOf:
    """What gives the node that computes a symbolic size from those of the graph's inputs, each once."""
    inputs = graph.find_nodes(op="placeholder")
    known: dict[Any, Node] = {}
    last = inputs[-1]

    def add(expression: Any, target: Any, arguments: tuple[Any, ...]) -> None:
        nonlocal last
        with graph.inserting_after(last):
            known[expression] = last = graph.call_function(target, arguments)
        last.meta = {"val": target(*map_arg(arguments, lambda argument: argument.meta["val"]))}

    def of(expression: Any) -> Any:
        if expression.is_Integer:
            return int(expression)
        if expression not in known:
            first, *others = expression.args
            other = others[0] if len(others) == 1 else expression.func(*others)
            add(expression, _ARITHMETIC[expression.func.__name__], (of(first), of(other)))
        return known[expression]

    for node in inputs:
        for axis, size in enumerate(node.meta["val"].shape):
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol and size.node.expr not in known:
                add(size.node.expr, aten.sym_size.int, (node, axis))
    return lambda size: of(size.node.expr)
