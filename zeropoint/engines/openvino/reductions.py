"""Rewrites of reductions in an OpenVINO model, which it computes wrongly beside quantizers."""

from typing import Any

from zeropoint.engines.openvino.nodes import array, constants, read_instead, readers
from zeropoint.engines.rewrites import Rewrite


def _reduction() -> Any:
    from openvino.passes import WrapType

    return WrapType([f"opset13.{name}" for name in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")])


def _not_over_tokens(node: Any) -> str | None:
    if node.get_attributes()["keep_dims"]:
        return "it keeps the axes"
    (axes,), rank = constants(node, 1), node.input_value(0).get_partial_shape().rank
    if axes is None or rank.is_dynamic:
        return "its axes are not known"
    count = rank.get_length()
    is_image = count > 3 and all(axis % count > 1 for axis in axes.flatten())
    is_extreme = node.get_type_name() in ("ReduceMax", "ReduceMin")
    return "it is a mean or sum over the places of an image" if is_image and not is_extreme else None


def _keep_axes(node: Any) -> None:
    from openvino import opset13

    reduce = {
        "ReduceMean": opset13.reduce_mean,
        "ReduceSum": opset13.reduce_sum,
        "ReduceMax": opset13.reduce_max,
        "ReduceMin": opset13.reduce_min,
    }[node.get_type_name()]
    kept = reduce(node.input_value(0), node.input_value(1), keep_dims=True)
    kept.set_friendly_name(node.get_friendly_name())
    read_instead(node, opset13.squeeze(kept, node.input_value(1)))


# Operators of one value, and those that may be one: with constants beside it.
_OF_ONE = {
    "Abs", "Add", "Ceiling", "Clamp", "Cos", "Divide", "Elu", "Erf", "Exp", "FakeQuantize", "Floor",
    "Gelu", "HSigmoid", "HSwish", "Log", "Maximum", "Minimum", "Mish", "Multiply", "Negative",
    "PRelu", "Power", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "SoftPlus", "SoftSign",
    "Sqrt", "Subtract", "Swish", "Tanh",
}  # fmt: skip


def _extreme() -> Any:
    from openvino.passes import WrapType

    return WrapType(["opset13.ReduceMax", "opset13.ReduceMin"])


def _made_of_it_alone(node: Any) -> list[Any]:
    """What is computed of a node's elements and constants."""
    return [
        reader
        for reader in readers(node)
        if reader.get_type_name() in _OF_ONE
        and reader.get_output_partial_shape(0) == node.get_output_partial_shape(0)
        and all(value.get_node() is node or array(value) is not None for value in reader.input_values())
    ]


def _nothing_of_it_alone(node: Any) -> str | None:
    if not node.get_attributes()["keep_dims"]:
        return "it drops the axes"
    if constants(node, 1)[0] is None:
        return "its axes are not known"
    return None if _made_of_it_alone(node) else "no operator reads it alone"


def _drop_axes_for(node: Any) -> None:
    from openvino.opset13 import constant, squeeze, unsqueeze

    axes, rank = node.input_value(1), node.get_output_partial_shape(0).rank.get_length()
    numbers = tuple(int(axis) % rank for axis in axes.get_node().get_data().flatten())
    for reader in _made_of_it_alone(node):
        kept = unsqueeze(reader, axes)
        for port in list(reader.output(0).get_target_inputs()):
            if port.get_node() is not kept:
                port.replace_source_output(kept.output(0))
        for position, value in enumerate(reader.input_values()):
            if value.get_node() is node:
                reader.input(position).replace_source_output(squeeze(node, axes).output(0))
            elif (given := array(value)).ndim > 0:
                given = given.reshape((1,) * (rank - given.ndim) + given.shape)
                reader.input(position).replace_source_output(constant(given.squeeze(numbers)).output(0))
        reader.validate_and_infer_types()


OF_REDUCTIONS = (
    Rewrite(
        "reduction that keeps its axes, and drops them afterwards",
        _reduction,
        _not_over_tokens,
        _keep_axes,
        # The low-precision pass of OpenVINO 2026.4.1 takes a product with a constant before it, as by a scale
        # for each channel, for a dequantization, and moves it behind the mean wrongly. A maximum over tokens
        # is wrong with an activation and a quantizer in its kernel.
        effect="36 dB, not 17, of ResMLP, whose mean over tokens a quantizer reads",
    ),
    Rewrite(
        "activation of a maximum that keeps its axes, without these",
        _extreme,
        _nothing_of_it_alone,
        _drop_axes_for,
        # OpenVINO 2026.4.1 computes a wrong maximum with an activation and a quantizer in its kernel.
        effect="141 dB to the simulation, not 3, of a GELU of the maximum over tokens",
    ),
)
