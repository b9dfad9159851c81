"""Small edits of an ``fx.GraphModule`` that every pass needs: copy, read and set tensors, name a node."""

import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Interpreter, Node

from zeropoint.graph.hidden import shown_by
from zeropoint.torch_private.graphs import copy_calling, lazy_module, tensor_names


def copy(module: GraphModule) -> GraphModule:
    """A GraphModule with a graph and containers of its own that shares every tensor with ``module``."""
    graph = Graph()
    output = graph.graph_copy(module.graph, {})
    graph.output(output)
    copy_calling(module.graph, graph)
    return lazy_module(module, graph)


def tensor_of(module: GraphModule, node: Node) -> Tensor:
    """The detached tensor that a ``get_attr`` node names."""
    path, _, name = str(node.target).rpartition(".")
    tensor: Tensor = getattr(module.get_submodule(path), name)
    return tensor.detach()


def is_stored(node: object, *, alone: bool = False) -> bool:
    """Whether a node is a stored tensor, the same for all inputs; with ``alone`` one that has one user."""
    return isinstance(node, Node) and node.op == "get_attr" and not (alone and len(node.users) > 1)


def set_tensor(module: GraphModule, name: str, tensor: Tensor, *, trainable: bool = False) -> str:
    """Stores ``tensor`` under the dotted ``name``, in new containers if need be; returns the name."""
    path, _, leaf = name.rpartition(".")
    container: nn.Module = module
    for part in path.split(".") if path else []:
        if not hasattr(container, part):
            container.add_module(part, nn.Module())
        container = getattr(container, part)
    if hasattr(container, leaf):
        delattr(container, leaf)
    if trainable:
        container.register_parameter(leaf, nn.Parameter(tensor))
    else:
        container.register_buffer(leaf, tensor)
    return name


def replace_argument(node: Node, position: int, value: object) -> None:
    """Sets one positional argument; those before it that were left out become None."""
    arguments: list[Any] = [*node.args] + [None] * (position + 1 - len(node.args))
    arguments[position] = value
    node.args = tuple(arguments)


def own_parameters(module: GraphModule) -> None:
    """Gives a copy parameters of its own, to train or to move to another device."""
    for name, parameter in list(module.named_parameters()):
        set_tensor(module, name, parameter.detach().clone(), trainable=True)


class Watching(Interpreter):
    """Runs a graph and passes the values of the nodes with these ``names`` to ``show`` once computed.

    ``shown`` says which positions of the latest inputs are no padding (``graph.hidden``).
    """

    shown: Tensor | None = None

    def __init__(
        self, module: GraphModule, names: Collection[str], show: Callable[[Node, Any], None]
    ) -> None:
        super().__init__(module)
        self.extra_traceback = False  # an InputError's message stays as it is
        self.names, self.show = set(names), show

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of the graph for these inputs."""
        self.shown = shown_by([node.name for node in self.graph.find_nodes(op="placeholder")], args)
        return super().run(*args, **kwargs)

    def run_node(self, n: Node) -> Any:
        """A node's value."""
        value = super().run_node(n)
        if n.name in self.names:
            self.show(n, value)
        return value


def module_name(node: Node) -> str:
    """The dotted name of the user's module that the node comes from, or the node's own name."""
    stack = node.meta.get("nn_module_stack")
    return (list(stack.values())[-1][0] if stack else "") or node.name


def module_names(module: GraphModule) -> list[str]:
    """The names of all modules that operators come from."""
    return sorted({module_name(node) for node in module.graph.nodes if node.op == "call_function"})


def remove_unused(module: GraphModule) -> None:
    """Drops nodes nobody uses and tensors no node names, then recompiles."""
    module.graph.eliminate_dead_code()
    module.graph.lint()
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for path, submodule in list(module.named_modules()):
        for name in tensor_names(submodule):
            if f"{path}.{name}".lstrip(".") not in used:
                delattr(submodule, name)
    module.delete_all_unused_submodules()
    module.recompile()


def is_float(node: object) -> bool:
    """Whether a node's value is a floating-point tensor (from the shape that capture left on it)."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def item_bytes(node: Node) -> int:
    """The bytes of a computed tensor for one item of a batch whose size is free; 0 for other nodes."""
    value = node.meta.get("val")
    if node.op == "get_attr" or not isinstance(value, torch.Tensor) or not value.dim():
        return 0
    return math.prod(item_sizes(node)[1:]) * value.element_size()


def item_sizes(node: Node) -> list[int]:
    """The sizes of a node's (first) value for a batch of one, other free ones as at capture."""
    value = node.meta["val"]
    sizes = (value[0] if isinstance(value, list | tuple) else value).shape
    if all(isinstance(size, int) for size in sizes):
        return list(sizes)
    known = {
        size.node.expr: size.node.hint if axis else 1
        for source in node.graph.find_nodes(op="placeholder")
        for axis, size in enumerate(source.meta["val"].shape)
        if isinstance(size, torch.SymInt)
    }
    at_one = [size if isinstance(size, int) else size.node.expr.subs(known) for size in sizes]
    return [int(size) if isinstance(size, int) or size.is_number else 1 for size in at_one]
