"""Rewrites of an ONNX graph into the operators that ONNX Runtime is fastest at; each computes the same."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from zeropoint.graph.packing import WORTH_HALVING


def rewrite(model: ir.Model) -> None:
    """Applies every rewrite of this file, in place."""
    _split_directly(model.graph)
    _gather_pixels(model.graph)
    _clip_integers(model.graph)
    if _fuse_silu(model.graph):
        model.opset_imports["com.microsoft"] = 1
    if _halve_weights(model.graph):  # the first version with integers of four bits
        model.opset_imports[""] = max(model.opset_imports[""], 21)
        model.ir_version = max(model.ir_version, 10)


def _split_directly(graph: ir.Graph) -> None:
    """Split in place of a sequence of parts and a look-up of each: 26 operators fewer in ShuffleNetV2."""
    for node in [node for node in graph if node.op_type == "SplitToSequence"]:
        lookups = [use.node for use in node.outputs[0].uses()]
        places: list[Any] = [
            _constant(lookup.inputs[1]) for lookup in lookups if lookup.op_type == "SequenceAt"
        ]
        sizes: Any = _constant(node.inputs[1])
        source, axis = node.inputs[0], node.attributes["axis"].as_int()
        length: Any = source.shape[axis] if source is not None and source.shape is not None else None
        known = sizes is not None and isinstance(length, int)
        given_back = any(lookup.outputs[0].is_graph_output() for lookup in lookups)
        if not known or given_back or any(place is None for place in places) or len(places) < len(lookups):
            continue
        if sizes.ndim == 0:  # parts of one size, and the rest
            sizes = np.diff([*range(0, length, int(sizes)), length])
        split = _initializer(graph, f"{node.outputs[0].name}_sizes", np.asarray(sizes, np.int64))
        parts = ir.node("Split", [source, split], {"axis": axis}, num_outputs=len(sizes))
        for i, part in enumerate(parts.outputs):
            part.name = f"{node.outputs[0].name}_part{i}"
        graph.insert_before(node, parts)
        for lookup, place in zip(lookups, places, strict=True):
            old, new = lookup.outputs[0], parts.outputs[int(place)]
            new.shape, new.type = old.shape, old.type
            old.replace_all_uses_with(new)
        graph.remove([*lookups, node], safe=True)


def _fuse_silu(graph: ir.Graph) -> int:
    """``x * sigmoid(x)`` as one operator, QuickGelu; the number of them."""
    count = 0
    for sigmoid in [node for node in graph if node.op_type == "Sigmoid"]:
        users = list(sigmoid.outputs[0].uses())
        alone = len(users) == 1 and not sigmoid.outputs[0].is_graph_output()
        product = users[0].node if alone else None
        if product is not None and product.op_type == "Mul" and sigmoid.inputs[0] in product.inputs:
            fused = ir.node("QuickGelu", [sigmoid.inputs[0]], {"alpha": 1.0}, domain="com.microsoft")
            _replace(graph, product, fused)
            graph.remove(sigmoid, safe=True)
            count += 1
    return count


def _replace(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    """Puts a node of one output in another's place, under its name."""
    (before,), (after,) = old.outputs, new.outputs
    after.name, after.shape, after.type = before.name, before.shape, before.type
    graph.insert_before(old, new)
    before.replace_all_uses_with(after, replace_graph_outputs=True)
    graph.remove(old, safe=True)


def _gather_pixels(graph: ir.Graph) -> None:
    """A first convolution of stride 2 over few channels as one of stride 1 over squares of 2 x 2 pixels.

    ONNX Runtime copies each patch channel by channel: three at a time take 18% of ResNet-18's time, and 27%
    of ShuffleNetV2's; twelve take half as long, although more of the weights are zero.
    """
    for conv in [node for node in graph if node.op_type == "Conv"]:
        source, weights = (_producer(conv, position) for position in (0, 1))
        if source is None or weights is None or weights.op_type != "DequantizeLinear":
            continue
        quantize = _producer(source, 0) if source.op_type == "DequantizeLinear" else None
        if quantize is None or quantize.op_type != "QuantizeLinear" or len(quantize.outputs[0].uses()) > 1:
            continue
        integers: Any = _constant(weights.inputs[0])
        image: Any = quantize.inputs[0]
        padding = _padding(conv, integers, image)
        offset = _constant(weights.inputs[2]) if len(weights.inputs) > 2 else None
        if offset is not None and offset.any():  # then the weights put in would be no zeros
            continue
        if padding is None or len(source.outputs[0].uses()) > 1 or len(weights.outputs[0].uses()) > 1:
            continue
        blocks, pads = _by_squares(integers, padding)
        squares = ir.node("SpaceToDepth", [image], {"blocksize": 2})
        squares.outputs[0].name = f"{image.name}_squares"
        graph.insert_before(quantize, squares)
        quantize.replace_input_with(0, squares.outputs[0])
        rearranged = _initializer(graph, f"{weights.outputs[0].name}_squares", blocks)
        weights.replace_input_with(0, rearranged)
        attributes: dict[str, Any] = {"strides": [1, 1], "pads": pads, "kernel_shape": blocks.shape[2:]}
        for name, values in attributes.items():
            conv.attributes[name] = ir.AttrInt64s(name, list(values))
        for value in (*quantize.outputs, *source.outputs, *weights.outputs):
            value.shape = None


def _padding(conv: ir.Node, integers: np.ndarray | None, image: ir.Value) -> int | None:
    """The padding on every side of a convolution that can be rewritten, else None."""
    attributes = {
        name: list(conv.attributes[name].as_ints())
        for name in ("strides", "pads", "dilations")
        if name in conv.attributes
    }
    pads = attributes.get("pads", [0] * 4)
    fits = (
        integers is not None
        and integers.ndim == 4
        and integers.shape[1] <= 4
        and ("group" not in conv.attributes or conv.attributes["group"].as_int() == 1)
        and attributes.get("strides") == [2, 2]
        and attributes.get("dilations", [1, 1]) == [1, 1]
        and ("auto_pad" not in conv.attributes or conv.attributes["auto_pad"].as_string() == "NOTSET")
        and len(set(pads)) == 1
        and image.shape is not None
        and all(isinstance(size, int) and size % 2 == 0 for size in image.shape[2:])
    )
    return pads[0] if fits else None


def _by_squares(weight: np.ndarray, padding: int) -> tuple[np.ndarray, list[int]]:
    """The weight (O, I, H, W) over squares of pixels, (O, 4 I, H', W'), and its ONNX pads.

    Output position o starts at pixel 2 o - padding: at an odd padding that is the second pixel of a square,
    so that the kernel gets zeros in front of it, and others where its size is odd then.
    """
    lead = padding % 2
    before = (padding + lead) // 2
    sizes = [-(-(size + lead) // 2) for size in weight.shape[2:]]
    # As many behind as give the old number of positions: over n squares, n + 1 + (2 padding - size) // 2.
    after = [
        new - before + (2 * padding - size) // 2 for new, size in zip(sizes, weight.shape[2:], strict=True)
    ]
    outputs, channels, height, width = weight.shape
    padded = np.zeros((outputs, channels, 2 * sizes[0], 2 * sizes[1]), weight.dtype)
    padded[:, :, lead : lead + height, lead : lead + width] = weight
    squares = padded.reshape(outputs, channels, sizes[0], 2, sizes[1], 2).transpose(0, 3, 5, 1, 2, 4)
    return squares.reshape(outputs, 4 * channels, *sizes).copy(), [before, before, *after]


def _clip_integers(graph: ir.Graph) -> None:
    """Clips before a quantizer as clips of its integers: rounding keeps order, so the result is the same.

    ONNX Runtime runs a convolution in int8 only if a quantizer is right behind it. Of one of fewer than eight
    bits a clip is part: it kept four of a small ResNet's nine convolutions in float.
    """
    for clip in [node for node in graph if node.op_type == "Clip"]:
        value, *ends = clip.inputs
        users = list(clip.outputs[0].uses())
        quantize = users[0].node if len(users) == 1 and not clip.outputs[0].is_graph_output() else None
        if quantize is None or quantize.op_type != "QuantizeLinear":
            continue
        constants = [_constant(end) for end in (*quantize.inputs[1:], *map(_uncast, ends))]
        if len(constants) != 4 or any(constant is None or constant.size > 1 for constant in constants):
            continue
        scale, zero_point, low, high = map(np.asarray, constants)
        levels = np.iinfo(zero_point.dtype)
        whole = [np.clip(np.round(end / scale) + zero_point, levels.min, levels.max) for end in (low, high)]
        (integers,) = quantize.outputs
        bounds = [
            _initializer(graph, f"{integers.name}_{name}", level.astype(zero_point.dtype))
            for name, level in zip(("low", "high"), whole, strict=True)
        ]
        clipped = ir.node("Clip", [integers, *bounds])
        (result,) = clipped.outputs
        result.name, result.shape, result.type = f"{integers.name}_clipped", integers.shape, integers.type
        integers.replace_all_uses_with(result, replace_graph_outputs=True)
        clipped.replace_input_with(0, integers)  # the one use that was not to be replaced
        quantize.replace_input_with(0, value)
        graph.insert_after(quantize, clipped)
        graph.remove(clip, safe=True)
    # Casts of ends read the layer's result as well, for its type, and would hide its quantizer.
    casts = [node for node in graph if node.op_type == "CastLike"]
    read = [cast for cast in casts if cast.outputs[0].uses() or cast.outputs[0].is_graph_output()]
    graph.remove([cast for cast in casts if cast not in read], safe=True)


def _uncast(value: ir.Value | None) -> ir.Value | None:
    """What a CastLike was made of, as the exporter puts it before a clip's ends."""
    producer = value.producer() if value is not None else None
    return producer.inputs[0] if producer is not None and producer.op_type == "CastLike" else value


def _halve_weights(graph: ir.Graph) -> int:
    """Int8 weights that four bits hold as int4, with a cast to int8 behind them; the number of them.

    ONNX Runtime folds the cast when it loads the file: what it runs is the same, from half the bytes.
    """
    count = 0
    for name, value in list(graph.initializers.items()):
        integers: Any = _constant(value)
        if integers is None or integers.dtype != np.int8 or integers.size < WORTH_HALVING:
            continue
        if integers.min() < -8 or integers.max() > 7:
            continue
        halved = integers.astype(ml_dtypes.int4)
        cast = ir.node("Cast", [_initializer(graph, f"{name}_narrow", halved)], {"to": value.dtype})
        (wide,) = cast.outputs
        graph.insert_before(graph[0], cast)
        value.replace_all_uses_with(wide)
        graph.initializers.pop(name)
        wide.name, wide.shape, wide.type = name, value.shape, value.type
        count += 1
    return count


def _producer(node: ir.Node, position: int) -> ir.Node | None:
    value = node.inputs[position]
    return None if value is None else value.producer()


def _constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer or a Constant, or None."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def _initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value
