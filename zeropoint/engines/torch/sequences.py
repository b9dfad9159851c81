"""Convolutions over one axis in compiled packages: each runs as one over an image of one row."""

from typing import Any, cast

from torch.fx import Graph, GraphModule, Node

from zeropoint.engines.torch.rewrites import DEQUANTIZE, DEQUANTIZE_WEIGHT, QUANTIZE
from zeropoint.graph import edits as fx
from zeropoint.graph.operators import CLAMPS, aten

ROW = 2  # the axis that an image (N, C, 1, L) has, and a sequence (N, C, L) has not

_OVER_IMAGES = {aten.conv1d.default: aten.conv2d.default, aten.conv1d.padding: aten.conv2d.padding}
_DEFAULTS = (None, [1], [0], [1], 1)  # bias, stride, padding, dilation, groups
_BY_ELEMENT = {
    QUANTIZE,
    DEQUANTIZE,
    *CLAMPS,
    aten.leaky_relu.default,
    aten.gelu.default,
    aten.silu.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.hardswish.default,
    aten.add.Tensor,
    aten.mul.Tensor,
}


def as_images(module: GraphModule) -> GraphModule:
    """Makes integer convolutions over one axis those over an image of one row.

    The compiler fails on the integer kernels of the former (torch 2.13). What lies between two of them is of
    images, too, so that the compiler finds the operators that it fuses beside the convolutions.
    """
    graph, images = module.graph, dict[Node, Node]()
    for node in list(graph.nodes):
        with graph.inserting_before(node.next):
            if image := _image_of(module, node, images):
                image.meta = dict(node.meta)
                images[node] = image
    for node, image in images.items():
        others = [user for user in node.users if user not in images]
        with graph.inserting_after(image):
            sequence = graph.call_function(aten.squeeze.dim, (image, ROW)) if others else None
        for user in others:
            user.replace_input_with(node, cast(Node, sequence))
    fx.remove_unused(module)
    return module


def _image_of(module: GraphModule, node: Node, images: dict[Node, Node]) -> Node | None:
    """A node that computes the image of what ``node`` computes; None if that is left as it is."""
    graph = module.graph
    if node.target in _OVER_IMAGES:
        floats, weight = cast(tuple[Node, Node], node.args[:2])
        if floats.target is not DEQUANTIZE or weight.target is not DEQUANTIZE_WEIGHT:
            return None
        given: list[Any] = [*node.args[2:], *_DEFAULTS[len(node.args) - 2 :]]
        bias, stride, padding, dilation, groups = given
        settings = (_of_both(stride, 1), _of_both(padding, 0), _of_both(dilation, 1), groups)
        operands = (_with_row(graph, floats, images), _kernel(module, weight), bias)
        return graph.call_function(_OVER_IMAGES[node.target], (*operands, *settings))
    if node.target not in _BY_ELEMENT or not any(one in images for one in node.all_input_nodes):
        return None
    shape = node.meta["val"].shape if len(node.all_input_nodes) > 1 else None
    if shape and any(one.meta["val"].shape != shape for one in node.all_input_nodes):
        return None
    return graph.node_copy(node, lambda one: _with_row(graph, one, images))


def _with_row(graph: Graph, value: Node, images: dict[Node, Node]) -> Node:
    if value in images:
        return images[value]
    if value.target is DEQUANTIZE:  # right before what reads it
        integers = _with_row(graph, cast(Node, value.args[0]), images)
        return graph.call_function(DEQUANTIZE, (integers, *value.args[1:]))
    return graph.call_function(aten.unsqueeze.default, (value, ROW))


def _kernel(module: GraphModule, weight: Node) -> Node:
    """The integer weight (O, I, K) of a convolution as that of one over images: (O, I, 1, K)."""
    constant = cast(Node, weight.args[0])
    row = fx.set_tensor(module, f"{constant.target}_row", fx.tensor_of(module, constant).unsqueeze(ROW))
    stored = module.graph.get_attr(row)
    return module.graph.call_function(DEQUANTIZE_WEIGHT, (stored, *weight.args[1:]))


def _of_both(setting: Any, of_row: int) -> Any:
    """A setting of a convolution for both axes of an image."""
    return setting if isinstance(setting, str) else [of_row, *setting]
