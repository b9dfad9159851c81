"""OpenVINO's own operators for recurrent layers: how its front end makes them of ``engines.recurrent``'s."""

from functools import partial
from typing import Any

import numpy as np

from zeropoint.engines.recurrent import Gates
from zeropoint.graph.operators import aten

GATES: Gates = {aten.lstm.input: (1, 0, 2, 3), aten.gru.input: (1, 0, 2)}


def sequence_rules() -> list[Any]:
    """Conversions of the operators of ``engines.recurrent``."""
    from openvino import opset13 as ops
    from openvino.frontend.pytorch import ConversionExtension

    made: dict[str, Any] = {}  # layers by the names of what the graph reads as their outputs
    rnn = partial(_layer, made, 1)
    layers = {
        "lstm": partial(_layer, made, 4, ops.lstm_sequence),
        "gru": partial(_layer, made, 3, partial(ops.gru_sequence, linear_before_reset=True)),
        "rnn_tanh": partial(rnn, partial(ops.rnn_sequence, activations=["tanh"])),
        "rnn_relu": partial(rnn, partial(ops.rnn_sequence, activations=["relu"])),
    }

    def last_cell(node: Any) -> Any:
        return _batch_first(made[node.get_input(0).get_node().get_name()].output(2)).outputs()

    rules = [ConversionExtension(f"zeropoint.{kind}_layer.default", rule) for kind, rule in layers.items()]
    return [*rules, ConversionExtension("zeropoint.last_cell.default", last_cell)]


def _layer(made: dict[str, Any], gates: int, operator: Any, node: Any) -> Any:
    """A layer over whole sequences. In OpenVINO the batch comes before steps and directions."""
    from openvino import opset13 as ops

    given = [node.get_input(i) for i in range(node.get_input_size())]
    rows, size = given[-2].get_partial_shape().to_shape()
    directions = rows // (gates * size)
    x, *states = map(_batch_first, given[:-3])
    widths = (given[-3].get_partial_shape()[1].get_length(), size, gates * size)
    inputs, hiddens, biases = (
        ops.reshape(one, [directions, -1, width], False)
        for one, width in zip(given[-3:], widths, strict=True)
    )
    lengths = ops.broadcast(ops.gather(ops.shape_of(x), [1], 0), ops.gather(ops.shape_of(x), [0], 0))
    sequence = operator(
        x,
        *states,
        lengths,
        inputs,
        hiddens,
        _one_bias(biases, gates, directions, size),
        hidden_size=size,
        direction="bidirectional" if directions == 2 else "forward",
    )
    steps_first = ops.transpose(sequence.output(0), [2, 0, 1, 3])  # of (N, D, T, H)
    output = ops.reshape(steps_first, np.array([0, 0, directions * size]), True)
    made[output.get_name()] = sequence
    return output.outputs()


def _one_bias(biases: Any, gates: int, directions: int, size: int) -> Any:
    """The biases (D, 2, G * H) as OpenVINO takes them: added up, but for those of the new gate of a GRU."""
    from openvino import opset13 as ops

    if gates != 3:
        return ops.reduce_sum(biases, [1], False)
    both = ops.variadic_split(biases, 2, [2 * size, size])
    return ops.concat(
        [
            ops.reduce_sum(both.output(0), [1], False),
            ops.reshape(both.output(1), [directions, 2 * size], False),
        ],
        1,
    )


def _batch_first(value: Any) -> Any:
    from openvino import opset13 as ops

    return ops.transpose(value, [1, 0, 2])
