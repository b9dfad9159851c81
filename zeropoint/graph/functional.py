"""Functional: an exported graph without writes to memory, in one spelling per operation."""

import operator
from typing import Any, cast

from torch.fx import Graph, GraphModule, Node

from zeropoint.graph.attention import ATTENTION, arguments_of, with_four_axes
from zeropoint.graph.operators import aten
from zeropoint.graph.spellings import respell
from zeropoint.torch_private.operators import signature


def alias_dropouts(module: GraphModule) -> None:
    """Says in the graph what a dropout does in eval mode: it gives back its very input, not a copy."""
    for node in module.graph.nodes:
        if node.target in _DROPOUTS and node.args[2] is False:  # else the user wants it on in eval mode too
            node.target, node.args, node.kwargs = aten.alias.default, node.args[:1], {}
    module.recompile()


def functionalize(graph: Graph) -> bool:
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


def shield_inputs(module: GraphModule) -> None:
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
# That take a list of axes, and reduce all of them if it is empty or left out.
_REDUCTIONS = {
    aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default,
    aten.linalg_vector_norm.default, aten.var.correction, aten.std.correction, aten.var_mean.correction,
    aten.std_mean.correction,
}  # fmt: skip
_IDENTITIES = {
    aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default, aten.resolve_conj.default,
    aten.resolve_neg.default,
}  # fmt: skip
_CONVERSIONS = {aten.to.dtype, aten.to.dtype_layout, aten.type_as.default}


def canonicalize(graph: Graph) -> None:
    """One spelling per operation: no identities and checks, ``batch_norm``, ``hardtanh`` for ReLU6."""
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        respell(node)
        if node.target in _IDENTITIES or (node.target in _CONVERSIONS and _keeps_type(node)):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
        elif node.target in _REDUCTIONS:
            _name_axes(node)
        elif node.target in _PADDED:
            _number_padding(node)
        elif node.target is aten.aminmax.default:
            _split_extremes(node)
        elif node.target is aten.cat.default:
            _leave_out_empty(node)
        elif node.target is ATTENTION:
            with_four_axes(node)
        elif node.target is aten.rrelu.default:
            _mean_slope(node)
        elif node.target is aten._native_batch_norm_legit_no_training.default:
            with graph.inserting_before(node):
                x, weight, bias, mean, variance, momentum, epsilon = node.args
                arguments = (x, weight, bias, mean, variance, False, momentum, epsilon, False)
                norm = graph.call_function(aten.batch_norm.default, arguments)
                norm.meta = {**node.meta, "val": node.meta["val"][0]}
            for user in list(node.users):
                if user.target is operator.getitem and user.args[1] == 0:
                    user.replace_all_uses_with(norm)


def _keeps_type(conversion: Node) -> bool:
    source = cast(Node, conversion.args[0])
    return bool(source.meta["val"].dtype == conversion.meta["val"].dtype)


_PADDED: dict[Any, Any] = {
    aten.conv1d.padding: aten.conv1d.default,
    aten.conv2d.padding: aten.conv2d.default,
    aten.conv3d.padding: aten.conv3d.default,
}


def _number_padding(convolution: Node) -> None:
    """Gives the padding of a convolution in numbers, but where one side has more of it than the other."""
    arguments = arguments_of(convolution)
    kernel, dilation = arguments["weight"].meta["val"].shape[2:], arguments["dilation"]
    dilations = [dilation] * len(kernel) if isinstance(dilation, int) else list(dilation) * len(kernel)
    both = [0] * len(kernel)
    if arguments["padding"] == "same":
        both = [step * (size - 1) for step, size in zip(dilations, kernel, strict=False)]
    if not any(total % 2 for total in both):
        arguments["padding"] = [total // 2 for total in both]
        convolution.target = _PADDED[convolution.target]
        convolution.args, convolution.kwargs = tuple(arguments.values()), {}


def _name_axes(reduction: Node) -> None:
    """Names the axes of a reduction over all of them, and the default correction of a variance.

    Where they are left out, ONNX's exporter fails on maxima, and OpenVINO on norms; and OpenVINO divides the
    sum of squares of a variance by n in place of n - 1.
    """
    schema, kwargs = signature(reduction.target).arguments, dict(reduction.kwargs)
    names = [argument.name for argument in schema]
    place = names.index("dim")
    left_out = schema[len(reduction.args) : place + 1]
    args = [*reduction.args, *(kwargs.pop(one.name, one.default_value) for one in left_out)]
    if not args[place]:
        args[place] = list(range(cast(Node, args[0]).meta["val"].dim()))
    if "correction" in names and kwargs.get("correction") is None:
        kwargs["correction"] = 1
    reduction.args, reduction.kwargs = tuple(args), kwargs


def _split_extremes(both: Node) -> None:
    """Replaces the pair of the least and the largest value by the two, which engines know."""
    source, axis = cast(Node, both.args[0]), both.kwargs.get("dim")
    axes = list(range(source.meta["val"].dim())) if axis is None else [axis]
    for user in list(both.users):
        number = cast(int, user.args[1])
        user.target = (aten.amin.default, aten.amax.default)[number]
        user.args = (source, axes, both.kwargs.get("keepdim", False))
    both.graph.erase_node(both)


def _mean_slope(rrelu: Node) -> None:
    """Says in the graph what a randomized leaky ReLU does in eval mode: its slope is the mean one."""
    given = cast(tuple[float, ...], rrelu.args[1:4])
    lower, upper, training = given + (1 / 8, 1 / 3, False)[len(given) :]
    if not training:
        slope = (lower + upper) / 2
        rrelu.target, rrelu.args = aten.leaky_relu.default, (rrelu.args[0], slope)


def _leave_out_empty(cat: Node) -> None:
    """Drops tensors of shape (0,), which PyTorch takes beside any others: an empty cache is one."""
    parts = [part for part in cast(list[Node], cat.args[0]) if tuple(part.meta["val"].shape) != (0,)]
    if len(parts) == 1:
        cat.replace_all_uses_with(parts[0])
        cat.graph.erase_node(cat)
    elif parts:
        cat.args = (parts, *cat.args[1:])
