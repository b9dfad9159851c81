"""Nodes of an OpenVINO model: the constants that they read, and what reads them."""

from typing import Any

# What gives each of its values from one of its input's, as it is.
_MOVES = {
    "BatchToSpace", "Broadcast", "Concat", "DepthToSpace", "Gather", "Interpolate", "MaxPool", "ReduceMax",
    "ReduceMin", "Reshape", "ShuffleChannels", "Slice", "SpaceToBatch", "SpaceToDepth", "Split",
    "Squeeze", "StridedSlice", "Tile", "Transpose", "Unsqueeze", "VariadicSplit",
}  # fmt: skip


def array(value: Any) -> Any:
    """The array of a constant, before a conversion to another type; None of what is computed."""
    source = value.get_node()
    if source.get_type_name() == "Convert":
        source = source.input_value(0).get_node()
    return source.get_data() if source.get_type_name() == "Constant" else None


def constants(node: Any, *positions: int) -> list[Any]:
    """The arrays of a node's inputs at these positions, None for an input that is not constant."""
    return [array(node.input_value(position)) for position in positions]


def is_of_constants(value: Any) -> bool:
    """Whether a value is computed of constants alone."""
    waiting = [value.get_node()]
    while waiting:
        part = waiting.pop()
        if part.get_type_name() == "Parameter":
            return False
        waiting += [source.get_node() for source in part.input_values()]
    return True


def quantizer_before(value: Any) -> Any:
    """The quantizer that made the values that are moved to be this one; None if another operator did."""
    source = value.get_node()
    while source.get_type_name() in _MOVES:
        source = source.input_value(0).get_node()
    return source if source.get_type_name() == "FakeQuantize" else None


def readers(node: Any) -> list[Any]:
    """The nodes that read what a node computes."""
    return [port.get_node() for port in node.output(0).get_target_inputs()]


def read_instead(node: Any, other: Any) -> None:
    """Has all that read a node read another one."""
    for reader in list(node.output(0).get_target_inputs()):
        reader.replace_source_output(other.output(0))
