"""Scalings: products in front of layers, by which the channels of what they read can be scaled.

A value has one scale for all its channels. Where a layer made them, its weights can even them out. An input
of the network has no such layer, and the parts of a concatenation may come from what is none. If their
channels are of unlike units (volts beside pascals), the small ones are lost: a channel with a hundredth of
the range is rounded to three values. So are the channels of transformers beside a few outliers, behind a GELU
or in a residual stream, through which no scale passes (Xiao et al. 2022, "SmoothQuant", arXiv 2211.10438,
section 3): where an engine multiplies at no cost, such products come before their layers, too.
"""

from collections.abc import Collection
from typing import cast

from torch import ones
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.attention import inserted
from zeropoint.graph.moves import axis_before
from zeropoint.graph.operators import TRANSPARENT, aten, facts, weight_of, weighted

_MARK = "scales_channels"


def insert_scalings(module: GraphModule, evened: Collection[Node], *, everywhere: bool) -> list[Node]:
    """Puts a product with ones for each channel before layers that read inputs or concatenations.

    ``everywhere``: before linear layers that read anything else, too. Not before the layers in ``evened``,
    whose inputs come from layers that can be scaled. Where layers share a weight, or read the same value, the
    products share their factors. Gives the products.
    """
    readers: dict[tuple[Node, int], list[Node]] = {}
    for layer in module.graph.nodes:
        description = weighted(layer)
        axis = {"conv": 1, "conv1d": 1, "linear": -1}.get(description.family) if description else None
        if description is None or axis is None or layer in evened:
            continue
        value = layer.args[description.input]
        if fx.is_float(value) and (is_joined(value) or (everywhere and axis == -1 and _is_whole(value))):
            readers.setdefault((value, axis), []).append(layer)
    order, products = list(readers), []
    for group in _of_shared_weights(readers):
        values = sorted(group, key=order.index)
        first, axis = values[0]
        factors = _factors(module, first, axis, readers[values[0]][0])
        products += [_inserted(module, value, factors, readers[value, axis]) for value, axis in values]
    return products


def _is_whole(value: Node) -> bool:
    """Whether the last axis of a value is an axis of what was moved to it, too.

    Flattened pixels are no channels, and OpenVINO is wrong (4 dB) with a factor for each of them: it brings
    the factors before the reshape.
    """
    axis: int | None = int(value.meta["val"].dim()) - 1
    while axis is not None and value.target in TRANSPARENT:
        axis, value = axis_before(value, axis), cast(Node, value.args[0])
    return axis is not None


def _of_shared_weights(readers: dict[tuple[Node, int], list[Node]]) -> list[list[tuple[Node, int]]]:
    """The values that layers of the same weights read, together; none whose weight is read by others, too."""
    layers = {layer for of_value in readers.values() for layer in of_value}
    weights = {value: {weight_of(layer) for layer in of_value} for value, of_value in readers.items()}
    found: list[list[tuple[Node, int]]] = []
    for value in readers:
        alike = [values for values in found if any(weights[value] & weights[other] for other in values)]
        found = [values for values in found if values not in alike]
        found.append([*(other for values in alike for other in values), value])
    return [
        values
        for values in found
        if all(set(weight.users) <= layers for value in values for weight in weights[value])
    ]


def factors_of(node: Node) -> Node:
    """The factors of a product, or any other node itself."""
    return cast(Node, node.args[1]) if is_scaling(node) else node


def is_scaling(node: Node) -> bool:
    """Whether a node is such a product."""
    return _MARK in node.meta


def remove_scalings(module: GraphModule, products: Collection[Node]) -> None:
    """Takes products out again."""
    for node in products:
        node.replace_all_uses_with(node.all_input_nodes[0])
        module.graph.erase_node(node)
    fx.remove_unused(module)


def is_joined(value: Node) -> bool:
    """Whether a value holds the channels of an input or of a concatenation."""
    while len(value.all_input_nodes) == 1 and (facts(value).scales or facts(value).moves):
        (value,) = value.all_input_nodes
    return value.op == "placeholder" or value.target is aten.cat.default


def _factors(module: GraphModule, value: Node, axis: int, reader: Node) -> Node:
    """A stored one for each channel of a value."""
    sizes = fx.item_sizes(value)
    shape = [sizes[axis], *[1] * (len(sizes) - 2 if axis == 1 else 0)]
    name = fx.set_tensor(module, f"{value.name}_channels{axis % len(sizes)}", ones(shape))
    with module.graph.inserting_before(reader):
        factors = module.graph.get_attr(name)
    factors.meta["val"] = fx.tensor_of(module, factors)
    return factors


def _inserted(module: GraphModule, value: Node, factors: Node, readers: list[Node]) -> Node:
    with module.graph.inserting_before(readers[0]):
        product = inserted(value, aten.mul.Tensor, value, factors)
    product.meta[_MARK] = True
    for reader in readers:
        reader.replace_input_with(value, product)
    return product
