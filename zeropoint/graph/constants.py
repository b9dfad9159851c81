"""Constants: what depends on stored tensors alone, computed once and stored."""

import operator
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from zeropoint.graph import edits as fx
from zeropoint.graph.operators import WEIGHTED, aten, bias_of, weighted
from zeropoint.torch_private.operators import is_operator, signature

# A value is stored if that does not make the file much larger: a mask of all pairs of 1024 tokens is 4 MB,
# and what it is computed from 8 KB. Engines compute such values once, when they load a file.
SMALL = 1 << 16  # bytes
GROWTH = 2  # times the stored tensors that it is computed from


def is_constant(node: object, *, sizes_fixed: bool = False) -> bool:
    """Whether a node's value is the same for all inputs: stored, or computed from stored tensors alone.

    With ``sizes_fixed``, as in an artefact of one size, sizes of inputs count as constant, too.
    """
    if not isinstance(node, Node):
        return False
    seen, waiting = {node}, [node]
    while waiting:
        part = waiting.pop()
        if sizes_fixed and isinstance(part.meta.get("val"), int | torch.SymInt):
            continue
        if not _is_repeatable(part) or (_has_free_size(part) and not sizes_fixed):
            return False
        waiting += [source for source in part.all_input_nodes if source not in seen]
        seen |= set(part.all_input_nodes)
    return True


def constant(module: GraphModule, node: Node) -> Tensor | None:
    """The value of a node that depends on stored tensors alone; None if on inputs or chance."""
    value = _value(module, node, {}) if is_constant(node) else None
    return value if isinstance(value, Tensor) else None


def fold_constants(module: GraphModule) -> None:
    """Stores what is computed from stored tensors alone, in place; what is computed twice is stored once.

    The weight of a layer always becomes a stored tensor, any other value if the file hardly grows. What is
    computed from a parameter is a parameter. A layer whose bias is no stored vector adds it afterwards.
    """
    for node in list(module.graph.nodes):
        _as_linear(node)
    _store(module, _joined(module))
    for node in list(module.graph.nodes):
        _add_bias_afterwards(node)
    _separate_axes(module)
    fx.remove_unused(module)


def _has_free_size(node: Node) -> bool:
    """Whether a size is free, as that of a batch: then the value depends on inputs, whatever else is read."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and not all(isinstance(size, int) for size in value.shape)


def _is_repeatable(node: Node) -> bool:
    """Whether a node gives the same whenever it is given the same: it takes no input, chance or memory."""
    if node.op != "call_function":
        return fx.is_stored(node)
    if node.target is operator.getitem:
        return True
    is_random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    return is_operator(node.target) and not is_random and not signature(node.target).is_mutable


def _value(module: GraphModule, node: Node, values: dict[Node, Any]) -> Any:
    """What a constant node gives; ``values`` are those known so far."""
    waiting = [node]
    while waiting:
        part = waiting[-1]
        unknown = [source for source in part.all_input_nodes if source not in values]
        if part not in values and not unknown:
            arguments, keywords = map_arg((part.args, part.kwargs), values.__getitem__)
            with torch.no_grad():
                target: Any = part.target
                is_stored = fx.is_stored(part)
                values[part] = fx.tensor_of(module, part) if is_stored else target(*arguments, **keywords)
        waiting = waiting + unknown if unknown else waiting[:-1]
    return values[node]


def _joined(module: GraphModule) -> set[Node]:
    """The constant nodes, after those that compute the same from the same have become one."""
    first: dict[str, Node] = {}
    known: set[Node] = set()
    for node in list(module.graph.nodes):
        if _is_repeatable(node) and known.issuperset(node.all_input_nodes):
            same = first.setdefault(
                repr((node.op, node.target, node.args, sorted(node.kwargs.items()))), node
            )
            if same is node:
                known.add(node)
            else:
                node.replace_all_uses_with(same)
                module.graph.erase_node(node)
    return known


def _fits(module: GraphModule, node: Node) -> bool:
    """Whether a constant may be stored: a small one, one about as large as its sources, a layer's weight."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return False
    layers = [user for user in node.users if user.target in WEIGHTED]
    is_weight = any(user.args[WEIGHTED[user.target].weight] is node for user in layers)
    sources = sum(fx.tensor_of(module, source).nbytes for source in _sources(node))
    return is_weight or value.nbytes <= max(SMALL, GROWTH * sources)


def _sources(node: Node) -> list[Node]:
    """The stored tensors that a constant is computed from."""
    found, waiting = {node: None}, [node]
    while waiting:
        new = [source for source in waiting.pop().all_input_nodes if source not in found]
        found |= dict.fromkeys(new)
        waiting += new
    return [part for part in found if part.op == "get_attr"]


def _store(module: GraphModule, known: set[Node]) -> None:
    """Puts stored tensors in the place of constants that are computed, as far as they fit."""
    nodes, computed = list(module.graph.nodes), []
    kept = {node for node in nodes if node not in known}
    for node in reversed(nodes):
        if node in known and any(user in kept for user in node.users):
            if node.op == "get_attr" or not _fits(module, node):
                kept.add(node)
            else:
                computed.append(node)
    taken = {str(node.target) for node in kept if node.op == "get_attr"} | dict(module.named_modules()).keys()
    values: dict[Node, Any] = {}
    stored = []
    for node in reversed(computed):
        value = _value(module, node, values).clone(memory_format=torch.contiguous_format)
        sources = [str(one.target) for one in _sources(node)]
        tensors = {name: attrgetter(name)(module) for name in sources}
        name = _name(node, max(sources, key=lambda name: tensors[name].numel(), default=""), taken)
        of_parameter = any(isinstance(tensor, nn.Parameter) for tensor in tensors.values())
        stored.append((node, name, value, of_parameter and value.is_floating_point()))
    for node, name, value, trainable in stored:  # now that all are computed: one may be computed from another
        with module.graph.inserting_before(node):
            made = module.graph.create_node("get_attr", name)
        made.meta["val"] = value
        node.replace_all_uses_with(made)
        fx.set_tensor(module, name, value, trainable=trainable)


def _name(node: Node, source: str, taken: set[str]) -> str:
    """A free name: ``conv.weight`` for the weight of a layer that is computed from ``conv.weight_v``."""
    user = next(iter(node.users))
    layer, leaf = WEIGHTED.get(user.target), node.name
    for position, role in ((layer.weight, "weight"), (layer.bias, "bias")) if layer else ():
        if position is not None and user.args[position : position + 1] == (node,):
            leaf = role
    before, parametrized, _ = f".{source}".partition(".parametrizations.")
    name = f"{before if parametrized else before.rpartition('.')[0]}.{leaf}".lstrip(".")
    while name in taken or hasattr(GraphModule, leaf):
        name, leaf = f"{name}_", f"{leaf}_"
    taken.add(name)
    return name


def _as_linear(node: Node) -> None:
    """Writes a product with a constant matrix as a linear layer, whose weight is the matrix transposed.

    What is transposed for the product is read as it is. So a matrix that others read, too, is stored once.
    """
    if node.target not in (aten.matmul.default, aten.mm.default, aten.addmm.default):
        return
    *bias, source, matrix = cast(tuple[Node, ...], node.args)
    if not (is_constant(matrix) and matrix.meta["val"].dim() == 2 and fx.is_float(node)):
        return

    def before(target: Any, of: Node, *others: Any) -> Node:
        with node.graph.inserting_before(node):
            made = node.graph.call_function(target, (of, *others))
        made.meta = {**of.meta, "val": target(of.meta["val"], *others)}
        return made

    weight = cast(Node, matrix.args[0]) if _transposes(matrix) else before(aten.transpose.int, matrix, 0, 1)
    if "alpha" in node.kwargs:
        weight = before(aten.mul.Tensor, weight, node.kwargs["alpha"])
    if "beta" in node.kwargs:
        bias = [before(aten.mul.Tensor, *bias, node.kwargs["beta"])]
    node.target, node.args, node.kwargs = aten.linear.default, (source, weight, *bias), {}


def _transposes(node: Node) -> bool:
    """Whether an operator exchanges the axes of a matrix."""
    arguments: Any = node.args
    if node.target is aten.permute.default:
        return [axis % 2 for axis in arguments[1]] == [1, 0]
    return node.target is aten.transpose.int and bool(arguments[1] % 2 != arguments[2] % 2)


def _add_bias_afterwards(node: Node) -> None:
    """Adds the bias to the result of a layer where it is computed from inputs, or no vector."""
    layer = weighted(node)
    bias = bias_of(node, layer) if layer else None
    if layer is None or bias is None or (fx.is_stored(bias) and bias.meta["val"].dim() == 1):
        return
    users, axes = list(node.users), [1] * (cast(Node, node.args[layer.weight]).meta["val"].dim() - 2)
    node.args = (*node.args[:2], None, *node.args[3:])
    last = node
    if axes:  # of a convolution
        with node.graph.inserting_after(node):
            last = node.graph.call_function(aten.reshape.default, (bias, [-1, *axes]))
        last.meta = {**node.meta, "val": bias.meta["val"].reshape(-1, *axes)}
    with node.graph.inserting_after(last):
        total = node.graph.call_function(aten.add.Tensor, (node, last if axes else bias))
    total.meta = dict(node.meta)
    for user in users:
        user.replace_input_with(node, total)


def _separate_axes(module: GraphModule) -> None:
    """Gives layers a name of their own for a weight whose output channels are along another axis elsewhere.

    A quantizer has its scales along one axis. Both names are of one tensor, until a pass changes it.
    """
    for stored in module.graph.find_nodes(op="get_attr"):
        readers = [(layer, user) for user in stored.users if (layer := weighted(user))]
        for layer, user in readers:
            if layer.channel_axis != readers[0][0].channel_axis and user.args[layer.weight] is stored:
                tensor = attrgetter(str(stored.target))(module)
                name = f"{stored.target}_of_{user.name}"
                with module.graph.inserting_before(user):
                    own = module.graph.get_attr(fx.set_tensor(module, name, tensor))
                own.meta = dict(stored.meta)
                fx.replace_argument(user, layer.weight, own)
