"""Rewrites of quantized graphs into what the PyTorch compiler is fastest at; each computes the same."""

from typing import cast

import torch
from torch.fx import GraphModule, Node
from torch.nn import functional

from zeropoint.engines.torch.run import scale_of_layer
from zeropoint.graph import edits as fx
from zeropoint.graph.constants import is_constant
from zeropoint.graph.moves import MOVES, before_moves
from zeropoint.graph.operators import SPLITS, TRANSPARENT, aten
from zeropoint.torch_private.pairs import pairs

QUANTIZE, DEQUANTIZE = pairs.quantize_per_tensor.default, pairs.dequantize_per_tensor.default
DEQUANTIZE_WEIGHT = pairs.dequantize_per_channel.default
NARROW = 4  # features of a layer
PIXEL = 4  # bytes that are moved as one integer


def move_integers(module: GraphModule) -> GraphModule:
    """Has what only moves values come before its input is dequantized, and not be quantized again behind.

    A pooling between a dequantize and a quantize is a call of a kernel that takes six times as long, and the
    shuffled channels of ShuffleNet are a quarter of the bytes.
    """
    for move in list(module.graph.nodes):
        sources = move.args[0] if move.target is aten.cat.default else move.args[:1]
        if move.target not in _MOVES or any(
            source.target is not DEQUANTIZE or source.args[1:] != sources[0].args[1:] for source in sources
        ):
            continue
        parameters = sources[0].args[1:]
        for source in set(sources):
            move.replace_input_with(source, source.args[0])
        for moved in list(move.users) if move.target in SPLITS else [move]:
            with module.graph.inserting_after(moved):
                floats = module.graph.call_function(sources[0].target, (moved, *parameters))
            floats.meta = dict(moved.meta)
            moved.replace_all_uses_with(floats, delete_user_cb=lambda user, floats=floats: user is not floats)
            for again in [user for user in floats.users if user.target is QUANTIZE]:
                if again.args[1:] == parameters:
                    again.replace_all_uses_with(moved)
    fx.remove_unused(module)
    return module


def keep_sums_apart(module: GraphModule) -> GraphModule:
    """Makes some sums with layers differences, ``x - (-y)``, which the compiler does not fuse.

    With a constant it would add a linear layer's product to that in place, more at every call: position
    embeddings grow. Of an activation, ``x + relu(linear(y))``, it fuses that first, and then fails on an
    assertion of its own, and so it does where a convolution is added to what was moved (all in torch 2.13).
    The negation is part of the loop that adds, or of the constant.
    """
    for total in module.graph.find_nodes(op="call_function", target=aten.add.Tensor):
        if total.kwargs or not all(isinstance(term, Node) for term in total.args):
            continue
        for term, other in (total.args, total.args[::-1]):
            activated = term.target in _FUSED and term.args[0].target is _LINEAR
            is_fixed = is_constant(term, sizes_fixed=True)
            is_moved = _integers(term).target in MOVES and other.target in _CONVOLUTIONS
            if activated or is_moved or (is_fixed and before_moves(other).target is _LINEAR):
                with module.graph.inserting_before(total):
                    negated = module.graph.call_function(aten.neg.default, (term,))
                    difference = module.graph.call_function(aten.sub.Tensor, (other, negated))
                difference.meta = dict(total.meta)
                total.replace_all_uses_with(difference)
                break
    fx.remove_unused(module)
    return module


def _integers(value: Node) -> Node:
    """What was dequantized to this value, or the value."""
    return cast(Node, value.args[0]) if value.target is DEQUANTIZE else value


def give_scales(module: GraphModule) -> GraphModule:
    """Has each layer dequantize its weight by scales of its own, where layers share a weight.

    The compiler makes a layer an integer kernel if nothing else reads what its weight is dequantized to, and
    merges what is dequantized by the same scales: layers of one weight would run in float.
    """
    for shared in module.graph.find_nodes(op="call_function", target=DEQUANTIZE_WEIGHT):
        integers, scale, *rest = shared.args
        for reader in list(shared.users) if len(shared.users) > 1 else ():
            with module.graph.inserting_before(reader):
                name = scale_of_layer(str(scale.target), reader.name)
                own = module.graph.get_attr(fx.set_tensor(module, name, fx.tensor_of(module, scale).clone()))
                weight = module.graph.call_function(shared.target, (integers, own, *rest))
            reader.replace_input_with(shared, weight)
    fx.remove_unused(module)
    return module


def flatten_tokens(module: GraphModule) -> GraphModule:
    """Has some linear layers read a matrix of integers, a token a row, and shapes their output afterwards.

    The compiler finds no integer kernel for a layer whose output is made a matrix, as it drops that reshape
    with the layer's own, nor for one over four axes that were turned. Of four features that one stays float:
    in integers CaiT takes 1.08 of the time, and from 64 features a layer takes 0.6 to 1.0.
    """
    for layer in module.graph.find_nodes(op="call_function", target=_LINEAR):
        floats = layer.args[0]
        # One free size at most, which is the batch.
        shape = [size if isinstance(size, int) else -1 for size in layer.meta["val"].shape]
        is_flattened = len(shape) > 2 and any(
            user.target in _RESHAPES and user.meta["val"].dim() == 2 for user in layer.users
        )
        if (
            floats.target is not DEQUANTIZE
            or layer.args[1].target is not DEQUANTIZE_WEIGHT
            or not (is_flattened or (len(shape) > 3 and floats.meta["val"].shape[-1] > NARROW))
            or shape.count(-1) > 1
        ):
            continue
        with module.graph.inserting_before(layer):
            integers = module.graph.call_function(aten.flatten.using_ints, (floats.args[0], 0, -2))
            matrix = module.graph.call_function(DEQUANTIZE, (integers, *floats.args[1:]))
        layer.replace_input_with(floats, matrix)
        with module.graph.inserting_after(layer):
            shaped = module.graph.call_function(aten.reshape.default, (layer, shape))
        shaped.meta = dict(layer.meta)
        layer.replace_all_uses_with(shaped, delete_user_cb=lambda user, shaped=shaped: user is not shaped)
    fx.remove_unused(module)
    return module


def reshape_anyhow(module: GraphModule) -> GraphModule:
    """Has views be reshapes: integer convolutions leave channels last, of which a view may be impossible."""
    for view in module.graph.find_nodes(op="call_function", target=aten.view.default):
        view.target = aten.reshape.default
    module.recompile()
    return module


_LINEAR, _FUSED = aten.linear.default, {aten.relu.default, aten.gelu.default}
_RESHAPES = {aten.flatten.using_ints, aten.view.default, aten.reshape.default}
_CONVOLUTIONS = {aten.conv2d.default, aten.conv2d.padding}
_MOVES = TRANSPARENT | SPLITS | {aten.cat.default}


def pack_pixels(module: GraphModule) -> GraphModule:
    """Lays an image of two or three channels out pixel by pixel, as convolutions read it, in whole integers.

    The compiler moves it byte by byte, which takes four times as long: 2% of ResNet-18, 3% of MobileNetV3.
    The weights of the channels that fill a pixel up are zero.
    """
    for quantize in module.graph.find_nodes(op="call_function", target=QUANTIZE):
        image = quantize.args[0]
        if image.op != "placeholder":
            continue
        shape = image.meta["val"].shape
        dequantizes = list(quantize.users)
        convolutions = [user for node in dequantizes for user in node.users]
        packs = (
            len(shape) == 4
            and all(isinstance(size, int) for size in shape[1:])
            and 1 < shape[1] < PIXEL
            and quantize.args[-1] is torch.uint8
            and all(node.target is DEQUANTIZE for node in dequantizes)
            and all(_reads_pixels(node, dequantizes) for node in convolutions)
        )
        if packs:
            _pack(module, quantize, shape)
            for convolution in convolutions:
                _widen(module, convolution, PIXEL - shape[1])
    fx.remove_unused(module)
    return module


def _reads_pixels(convolution: Node, inputs: list[Node]) -> bool:
    """Whether a node is a convolution over all channels of an image, with an integer weight of its own."""
    if convolution.target is not aten.conv2d.default or convolution.args[0] not in inputs:
        return False
    weight = cast(Node, convolution.args[1])
    groups = [*convolution.args[6:], convolution.kwargs.get("groups", 1)][0]
    integers = weight.target is DEQUANTIZE_WEIGHT and len(weight.users) == 1
    return bool(integers and groups == 1 and weight.args[3] == 0)  # scales by output


def _pack(module: GraphModule, quantize: Node, shape: torch.Size) -> None:
    """Puts integers of one pixel each between a quantizer of (N, C, H, W) and what reads it."""
    graph, readers = module.graph, list(quantize.users)
    with graph.inserting_before(quantize.next):
        pixels = None
        for channel in range(shape[1]):
            plane = graph.call_function(aten.select.int, (quantize, 1, channel))
            plane = graph.call_function(aten._to_copy.default, (plane,), {"dtype": torch.int32})
            if pixels is not None:
                plane = graph.call_function(aten.mul.Tensor, (plane, 1 << 8 * channel))
                plane = graph.call_function(aten.add.Tensor, (pixels, plane))
            pixels = plane
        bytes_ = graph.call_function(aten.view.dtype, (pixels, torch.uint8))  # (N, H, W * PIXEL)
        apart = graph.call_function(aten.view.default, (bytes_, [-1, *shape[2:], PIXEL]))
        packed = graph.call_function(aten.permute.default, (apart, [0, 3, 1, 2]))
    for reader in readers:
        reader.replace_input_with(quantize, packed)


def _widen(module: GraphModule, convolution: Node, channels: int) -> None:
    """Gives a convolution's integer weight so many more input channels, of zeros."""
    weight = cast(Node, convolution.args[1])
    integers = cast(Node, weight.args[0])
    wide = functional.pad(fx.tensor_of(module, integers), (0, 0, 0, 0, 0, channels))
    with module.graph.inserting_before(weight):
        constant = module.graph.get_attr(fx.set_tensor(module, f"{integers.target}_wide", wide))
    weight.replace_input_with(integers, constant)
