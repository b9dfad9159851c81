"""Inputs: a product by which the channels of a network's input can be scaled, in front of its first layers.

An input has one scale for all its channels. If they are of unlike units (volts beside pascals), the small
ones are lost: a channel with a hundredth of the range is rounded to three values.
"""

from torch import ones
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.attention import inserted
from zeropoint.graph.operators import aten, weighted

_MARK = "scales_inputs"


def open_inputs(module: GraphModule) -> list[Node]:
    """Puts a product with ones for each channel before the layers that read an input; the new nodes."""
    opened = []
    for source in list(module.graph.find_nodes(op="placeholder")):
        for axis in (1, -1):
            readers = [user for user in source.users if _axis_read(user, source) == axis]
            if fx.is_float(source) and readers:
                opened.append(_opened(module, source, axis, readers))
    return opened


def is_opened(node: Node) -> bool:
    """Whether a node is such a product."""
    return _MARK in node.meta


def close(module: GraphModule, opened: list[Node], scaled: set[Node]) -> None:
    """Takes the products out again that are not among the ``scaled`` ones."""
    for node in opened:
        if node not in scaled:
            node.replace_all_uses_with(node.all_input_nodes[0])
            module.graph.erase_node(node)
    fx.remove_unused(module)


def _axis_read(user: Node, source: Node) -> int | None:
    """The axis of the channels of ``source`` as a layer reads them: 1, or -1 for the last."""
    description = weighted(user)
    if description is None or user.args[description.input] is not source:
        return None
    return {"conv": 1, "conv1d": 1, "linear": -1}.get(description.family)


def _opened(module: GraphModule, source: Node, axis: int, readers: list[Node]) -> Node:
    sizes = fx.item_sizes(source)
    shape = [sizes[axis], *[1] * (len(sizes) - 2 if axis == 1 else 0)]
    with module.graph.inserting_before(readers[0]):
        name = fx.set_tensor(module, f"{source.name}_channels{axis % len(sizes)}", ones(shape))
        scale = module.graph.get_attr(name)
        scale.meta["val"] = fx.tensor_of(module, scale)
        product = inserted(source, aten.mul.Tensor, source, scale)
    product.meta[_MARK] = True
    for reader in readers:
        reader.replace_input_with(source, product)
    return product
