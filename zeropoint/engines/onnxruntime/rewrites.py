"""Rewrites of an ONNX graph into the operators that ONNX Runtime is fastest at, and into smaller files."""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.rewriter import pattern as matching

from zeropoint.engines.rewrites import Rewrite, Tried, apply
from zeropoint.graph.packing import WORTH_HALVING


def rewrite(model: ir.Model) -> list[Tried]:
    """Applies every rewrite of this file, in place; what was tried."""
    tried = apply(BY_PLACE, model.graph)
    for one in BY_PATTERN:
        tried += _match(one, model)
    RemoveUnusedNodesPass()(model)
    if any(value.dtype == ir.DataType.INT4 for value in model.graph.initializers.values()):
        # the first versions with integers of four bits
        model.opset_imports[""] = max(model.opset_imports[""], 21)
        model.ir_version = max(model.ir_version, 10)
    return tried


def split_directly(model: ir.Model) -> None:
    """Applies the one rewrite to operators that more runtimes than ONNX Runtime know."""
    apply(BY_PLACE[:1], model.graph)


def _match(one: Rewrite, model: ir.Model) -> list[Tried]:
    """Applies a rewrite whose pattern is one of onnxscript's rewriter."""
    tried = []

    def check(context: Any, root: ir.Value, **matched: Any) -> matching.MatchResult:
        result, reason = matching.MatchResult(), one.check(root=root, **matched)
        tried.append(Tried(one.name, str(root.name), reason))
        return result if reason is None else result.fail(reason, root)

    rule = matching.RewriteRule(one.pattern, one.put, check, name=one.name)
    matching.RewriteRuleSet([rule], commute=True).apply_to_model(model)
    return tried


# Splits without a sequence of parts.


def _splits(node: ir.Node) -> tuple[Any, list[ir.Node], list[Any], Any]:
    """The sizes of the parts, their look-ups, the places that these look up, and the length that is split."""
    lookups = [use.node for use in node.outputs[0].uses()]
    places = [_constant(one.inputs[1]) if one.op_type == "SequenceAt" else None for one in lookups]
    source, axis = node.inputs[0], node.attributes["axis"].as_int()
    length = source.shape[axis] if source is not None and source.shape is not None else None
    return _constant(node.inputs[1]), lookups, places, length


def _not_direct(graph: ir.Graph, node: ir.Node) -> str | None:
    sizes, lookups, places, length = _splits(node)
    if sizes is None or not isinstance(length, int):
        return "the sizes of the parts are not known"
    if any(lookup.outputs[0].is_graph_output() for lookup in lookups):
        return "a part is an output of the model"
    return "a part is not read by a constant position" if any(one is None for one in places) else None


def _split_directly(graph: ir.Graph, node: ir.Node) -> None:
    sizes, lookups, places, length = _splits(node)
    if sizes.ndim == 0:  # parts of one size, and the rest
        sizes = np.diff([*range(0, length, int(sizes)), length])
    name = node.outputs[0].name
    split = _initializer(graph, f"{name}_sizes", np.asarray(sizes, np.int64))
    attributes = {"axis": node.attributes["axis"].as_int()}
    parts = ir.node("Split", [node.inputs[0], split], attributes, num_outputs=len(sizes))
    for i, part in enumerate(parts.outputs):
        part.name = f"{name}_part{i}"
    graph.insert_before(node, parts)
    for lookup, place in zip(lookups, places, strict=True):
        old, new = lookup.outputs[0], parts.outputs[int(place)]
        new.shape, new.type = old.shape, old.type
        old.replace_all_uses_with(new)
    graph.remove([*lookups, node], safe=True)


# First convolutions over squares of pixels.


def _image(conv: ir.Node) -> tuple[ir.Node, ir.Node, ir.Node] | None:
    """The quantizer of a convolution's input, and the dequantizers of its input and weight."""
    source, weights = (_producer(conv, position) for position in (0, 1))
    if source is None or weights is None:
        return None
    quantize = _producer(source, 0)
    kinds = [node.op_type if node else "" for node in (quantize, source, weights)]
    if quantize is None or kinds != ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear"]:
        return None
    return quantize, source, weights


def _no_squares(graph: ir.Graph, conv: ir.Node) -> str | None:
    found = _image(conv)
    if found is None:
        return "its input and weight are not quantized"
    if any(len(node.outputs[0].uses()) > 1 for node in found):
        return "another layer reads its input or weight"
    quantize, _, weights = found
    if len(weights.inputs) > 2 and (offset := _constant(weights.inputs[2])) is not None and offset.any():
        return "its weight has zero points, so that the integers put in would not be zeros"
    integers, image = _constant(weights.inputs[0]), quantize.inputs[0]
    if integers is None or integers.ndim != 4 or integers.shape[1] > 4:
        return "it is not a convolution over an image of at most 4 channels"
    given: dict[str, Any] = {name: attribute.value for name, attribute in conv.attributes.items()}
    strides, dilations = list(given.get("strides", ())), list(given.get("dilations", (1, 1)))
    if strides != [2, 2] or dilations != [1, 1] or given.get("group", 1) != 1:
        return "it has another stride than 2, a dilation or groups"
    if len(set(given.get("pads", (0,)))) != 1 or given.get("auto_pad", "NOTSET") != "NOTSET":
        return "its padding differs between the sides"
    if image is None or image.shape is None:
        return "the size of the image is not known"
    even = all(isinstance(size, int) and size % 2 == 0 for size in image.shape[2:])
    return None if even else "the size of the image is not known, or odd"


def _gather_pixels(graph: ir.Graph, conv: ir.Node) -> None:
    found = _image(conv)
    assert found is not None
    quantize, source, weights = found
    image: Any = quantize.inputs[0]
    integers: Any = _constant(weights.inputs[0])
    padding = [*conv.attributes["pads"].as_ints(), 0][0] if "pads" in conv.attributes else 0
    blocks, pads = _by_squares(integers, padding)
    squares = ir.node("SpaceToDepth", [image], {"blocksize": 2})
    squares.outputs[0].name = f"{image.name}_squares"
    graph.insert_before(quantize, squares)
    quantize.replace_input_with(0, squares.outputs[0])
    weights.replace_input_with(0, _initializer(graph, f"{weights.outputs[0].name}_squares", blocks))
    attributes: dict[str, Any] = {"strides": [1, 1], "pads": pads, "kernel_shape": blocks.shape[2:]}
    for name, values in attributes.items():
        conv.attributes[name] = ir.AttrInt64s(name, list(values))
    for value in (*quantize.outputs, *source.outputs, *weights.outputs):
        value.shape = None


def _by_squares(weight: np.ndarray, padding: int) -> tuple[np.ndarray, list[int]]:
    """The weight (O, I, H, W) over squares of pixels, (O, 4 I, H', W'), and its ONNX pads.

    Output position o starts at pixel 2 o - padding. With an odd padding that is the second pixel of a square,
    so that the kernel gets zeros before it, and after it if its size is then odd.
    """
    lead = padding % 2
    before = (padding + lead) // 2
    sizes = [-(-(size + lead) // 2) for size in weight.shape[2:]]
    # As many after as give the old number of positions: over n squares, n + 1 + (2 padding - size) // 2.
    after = [
        new - before + (2 * padding - size) // 2 for new, size in zip(sizes, weight.shape[2:], strict=True)
    ]
    outputs, channels, height, width = weight.shape
    padded = np.zeros((outputs, channels, 2 * sizes[0], 2 * sizes[1]), weight.dtype)
    padded[:, :, lead : lead + height, lead : lead + width] = weight
    squares = padded.reshape(outputs, channels, sizes[0], 2, sizes[1], 2).transpose(0, 3, 5, 1, 2, 4)
    return squares.reshape(outputs, 4 * channels, *sizes).copy(), [before, before, *after]


# Weights of four bits.


def _not_narrow(graph: ir.Graph, value: ir.Value) -> str | None:
    integers: Any = _constant(value)
    if integers.size < WORTH_HALVING:
        return f"only {integers.size} weights"
    return "more than four bits" if integers.min() < -8 or integers.max() > 7 else None


def _halve(graph: ir.Graph, value: ir.Value) -> None:
    integers: Any = _constant(value)
    name = str(value.name)
    halved = _initializer(graph, f"{name}_narrow", integers.astype(ml_dtypes.int4))
    cast = ir.node("Cast", [halved], {"to": value.dtype})
    (wide,) = cast.outputs
    graph.insert_before(graph[0], cast)
    value.replace_all_uses_with(wide)
    graph.initializers.pop(name)
    wide.name, wide.shape, wide.type = name, value.shape, value.type


# Clips of integers, and SiLU.


def _clip_before_quantizer(op: Any, x: Any, low: Any, high: Any, scale: Any, zero_point: Any) -> Any:
    clipped = op.Clip(x, low, high)
    return op.QuantizeLinear(clipped, scale, zero_point, _allow_other_attributes=True, _outputs=["root"])


def _not_constant(root: ir.Value, low: Any, high: Any, scale: Any, zero_point: Any, **_: Any) -> str | None:
    found = [_constant(_uncast(value)) for value in (low, high, scale, zero_point)]
    if any(value is None or value.size > 1 for value in found):
        return "a limit of the clip, or the scale, is not one constant"
    return None


def _clip_integers(op: Any, root: Any, x: Any, low: Any, high: Any, scale: Any, zero_point: Any) -> Any:
    constants = [_constant(_uncast(one)) for one in (low, high, scale, zero_point)]
    lowest, highest, step, zero = map(np.asarray, constants)
    levels = np.iinfo(zero.dtype)
    whole = [np.clip(np.round(end / step) + zero, levels.min, levels.max) for end in (lowest, highest)]
    bounds = [
        op.initializer(ir.tensor(level.astype(zero.dtype)), f"{root.name}_{name}")
        for name, level in zip(("low", "high"), whole, strict=True)
    ]
    return op.Clip(op.QuantizeLinear(x, scale, zero_point), *bounds)


def _uncast(value: ir.Value | None) -> ir.Value | None:
    """The input of a CastLike, which the exporter puts before a clip's limits."""
    producer = value.producer() if value is not None else None
    return producer.inputs[0] if producer is not None and producer.op_type == "CastLike" else value


def _silu(op: Any, x: Any) -> Any:
    return op.Mul(x, op.Sigmoid(x), _outputs=["root"])


def _of_type(name: str) -> Callable[[ir.Graph], list[ir.Node]]:
    return lambda graph: [node for node in graph if node.op_type == name]


def _int8_weights(graph: ir.Graph) -> list[ir.Value]:
    return [value for value in graph.initializers.values() if value.dtype == ir.DataType.INT8]


BY_PLACE = (
    Rewrite(
        "Split in the place of a sequence of parts and a look-up of each",
        _of_type("SplitToSequence"),
        _not_direct,
        _split_directly,
        effect="26 operators fewer in ShuffleNetV2",
    ),
    Rewrite(
        "first convolution of stride 2 as one of stride 1 over squares of 2 x 2 pixels",
        _of_type("Conv"),
        _no_squares,
        _gather_pixels,
        # ONNX Runtime copies each patch channel by channel. Twelve channels at a time take half as long as
        # three, although more of the weights are zero.
        effect="the first convolution takes half as long: 18% of ResNet-18's time, 27% of ShuffleNetV2's",
    ),
    Rewrite(
        "int8 weights within four bits as int4, and a cast",
        _int8_weights,
        _not_narrow,
        _halve,
        effect="half the bytes; ONNX Runtime folds the cast when it loads the file",
    ),
)
BY_PATTERN = (
    Rewrite(
        "clip before a quantizer as a clip of its integers",
        _clip_before_quantizer,
        _not_constant,
        _clip_integers,  # the same result, since rounding keeps the order
        # ONNX Runtime runs a convolution in int8 only if a quantizer is right after it. A quantizer of fewer
        # than eight bits has a clip before it.
        effect="int8 for four of the nine convolutions of a small ResNet with activations of under 8 bits",
    ),
    Rewrite(
        "x * sigmoid(x) as QuickGelu",
        _silu,
        lambda root, x: None,
        lambda op, root, x: op.QuickGelu(x, alpha=1.0, _domain="com.microsoft"),
        effect="one operator, not two",
    ),
)


def _producer(node: ir.Node, position: int) -> ir.Node | None:
    value = node.inputs[position]
    return None if value is None else value.producer()


def _constant(value: ir.Value | None) -> Any:
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
