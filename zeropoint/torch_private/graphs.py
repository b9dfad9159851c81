"""What PyTorch keeps beside the nodes of a graph and in an ExportedProgram."""

import copy
from typing import Any

from torch import nn
from torch._export.verifier import TrainingIRVerifier
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule
from torch.fx._lazy_graph_module import _LazyGraphModule

VERIFIER = TrainingIRVerifier
"""The verifier of graphs that are not functional yet, as ``torch.export.export`` gives them."""


def copy_calling(source: Graph, destination: Graph) -> None:
    """Gives a graph the names of inputs and the structure of outputs of another graph."""
    destination.set_codegen(copy.copy(source._codegen))


def module_of(root: nn.Module, graph: Graph) -> GraphModule:
    """The module of a graph, whose Python code is made when it is first called: passes call few of them."""
    return _LazyGraphModule(root, graph)


def output_structure(graph: Graph) -> Any:
    """The structure in which a graph's module gives back its tensors; None if the graph does not say."""
    known = getattr(graph._codegen, "pytree_info", None)
    return known.out_spec if known else None


def drop_example_inputs(exported: ExportedProgram) -> None:
    """Removes the example inputs, which would be saved with the program."""
    exported._example_inputs = None


def tensor_names(module: nn.Module) -> list[str]:
    """The names of a module's own parameters and buffers, without those of its submodules."""
    return [*module._parameters, *module._buffers]
