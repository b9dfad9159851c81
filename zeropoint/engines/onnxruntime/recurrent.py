"""ONNX's own operators for recurrent layers: what its exporter makes of ``engines.recurrent``'s."""

from functools import partial
from typing import Any

from zeropoint.engines.recurrent import LAYERS, Gates, own
from zeropoint.graph.operators import aten

GATES: Gates = {aten.lstm.input: (0, 3, 1, 2), aten.gru.input: (1, 0, 2)}


def sequence_table() -> dict[Any, Any]:
    """Translations of the operators of ``engines.recurrent``, by operator."""
    from onnxscript import opset20 as op

    made: dict[Any, Any] = {}  # the last cells of LSTMs, by what the graph reads as their outputs

    def rule(gates: int, operator: Any, **settings: Any) -> Any:
        def layer(x: Any, *given: Any) -> Any:  # the exporter wants a function with a name
            output, cell = _layer(gates, partial(operator, **settings), x, *given)
            made[output] = cell
            return output

        return layer

    return {
        LAYERS[aten.lstm.input]: rule(4, op.LSTM),
        LAYERS[aten.gru.input]: rule(3, op.GRU, linear_before_reset=1),
        LAYERS[aten.rnn_tanh.input]: rule(1, op.RNN, activations=["Tanh", "Tanh"]),
        LAYERS[aten.rnn_relu.input]: rule(1, op.RNN, activations=["Relu", "Relu"]),
        own.last_cell.default: lambda output, _: made[output],
    }


def _layer(gates: int, operator: Any, x: Any, *given: Any) -> tuple[Any, Any]:
    """The output of a layer over whole sequences, and the last cell; ONNX keeps the directions apart."""
    import onnxscript

    op: Any = onnxscript.opset20
    *states, inputs, hiddens, biases = given
    rows, size = hiddens.shape
    directions = rows // (gates * size)
    inputs, hiddens = (
        op.Reshape(one, op.Constant(value_ints=[directions, gates * size, -1])) for one in (inputs, hiddens)
    )
    direction = "bidirectional" if directions == 2 else "forward"
    output, *last = operator(x, inputs, hiddens, biases, None, *states, hidden_size=size, direction=direction)
    steps_first = op.Transpose(output, perm=[0, 2, 1, 3])  # of (T, D, N, H)
    joined = op.Reshape(steps_first, op.Constant(value_ints=[0, 0, directions * size]))
    return joined, last[-1]
