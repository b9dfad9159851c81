"""Scalings: products in front of layers, by which the channels of what they read can be scaled.

A value has one scale for all its channels. Where a layer made them, its weights can even them out. An input
of the network has no such layer, and the parts of a concatenation may come from what is none. If their
channels are of unlike units (volts beside pascals), the small ones are lost: a channel with a hundredth of
the range is rounded to three values.
"""

from collections.abc import Collection

from torch import ones
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.attention import inserted
from zeropoint.graph.operators import aten, facts, weighted

_MARK = "scales_channels"


def insert_scalings(module: GraphModule, evened: Collection[Node]) -> list[Node]:
    """Puts a product with ones for each channel before layers that read inputs or concatenations.

    Not before the layers in ``evened``, whose inputs come from layers that can be scaled. Gives the products.
    """
    values: dict[tuple[Node, int], list[Node]] = {}
    for layer in module.graph.nodes:
        description = weighted(layer)
        axis = {"conv": 1, "conv1d": 1, "linear": -1}.get(description.family) if description else None
        if description is None or axis is None or layer in evened:
            continue
        value = layer.args[description.input]
        if fx.is_float(value) and _is_joined(value):
            values.setdefault((value, axis), []).append(layer)
    return [_inserted(module, value, axis, readers) for (value, axis), readers in values.items()]


def is_scaling(node: Node) -> bool:
    """Whether a node is such a product."""
    return _MARK in node.meta


def remove_scalings(module: GraphModule, products: Collection[Node]) -> None:
    """Takes products out again."""
    for node in products:
        node.replace_all_uses_with(node.all_input_nodes[0])
        module.graph.erase_node(node)
    fx.remove_unused(module)


def _is_joined(value: Node) -> bool:
    """Whether a value holds the channels of an input or of a concatenation."""
    while len(value.all_input_nodes) == 1 and (facts(value).scales or facts(value).moves):
        (value,) = value.all_input_nodes
    return value.op == "placeholder" or value.target is aten.cat.default


def _inserted(module: GraphModule, value: Node, axis: int, readers: list[Node]) -> Node:
    sizes = fx.item_sizes(value)
    shape = [sizes[axis], *[1] * (len(sizes) - 2 if axis == 1 else 0)]
    with module.graph.inserting_before(readers[0]):
        name = fx.set_tensor(module, f"{value.name}_channels{axis % len(sizes)}", ones(shape))
        scale = module.graph.get_attr(name)
        scale.meta["val"] = fx.tensor_of(module, scale)
        product = inserted(value, aten.mul.Tensor, value, scale)
    product.meta[_MARK] = True
    for reader in readers:
        reader.replace_input_with(value, product)
    return product
