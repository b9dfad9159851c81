"""What PyTorch keeps beside the nodes of a graph and in an ExportedProgram."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch._export.verifier import TrainingIRVerifier
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo

from zeropoint.torch_private.trees import tree_structure, tree_unflatten

VERIFIER = TrainingIRVerifier
"""The verifier of graphs that are not functional yet, as ``torch.export.export`` gives them."""


def copy_calling(source: Graph, destination: Graph) -> None:
    """Gives a graph the names of inputs and the structure of outputs of another graph."""
    destination.set_codegen(copy.copy(source._codegen))


def lazy_module(root: nn.Module, graph: Graph) -> GraphModule:
    """The module of a graph, whose Python code is made when it is first called: passes call few of them."""
    return _LazyGraphModule(root, graph)


def write_code(module: nn.Module) -> None:
    """Makes the code of a module and its parts now: torch.export and torch.compile read it before a call."""
    for part in module.modules():
        if isinstance(part, _LazyGraphModule):
            part.real_recompile()


def output_structure(graph: Graph, leaves: Sequence[Any]) -> Any:
    """The structure in which a graph's module gives its outputs, with ``leaves`` in it."""
    known = getattr(graph._codegen, "pytree_info", None)
    return tree_unflatten(list(leaves), known.out_spec) if known else tuple(leaves)


def call_flat(graph: Graph) -> None:
    """Has a graph's module take tensors in order and give a tuple of tensors, or one tensor, in place."""
    names = [str(node.target) for node in graph.find_nodes(op="placeholder")]
    output = graph.output_node()
    given: Any = output.args[0]
    results = tuple(value for value in given if isinstance(value, Node))
    output.args = (results,)
    inputs = tree_structure((tuple(names), {}))
    outputs = tree_structure(0 if len(results) == 1 else results)
    graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(names, inputs, outputs)))


def drop_example_inputs(exported: ExportedProgram) -> None:
    """Removes the example inputs, which would be saved with the program."""
    exported._example_inputs = None


def tensor_names(module: nn.Module) -> list[str]:
    """The names of a module's own parameters and buffers, without those of its submodules."""
    return [*module._parameters, *module._buffers]
