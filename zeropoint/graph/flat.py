"""Flat: a model as a function of flat tensors, whatever call and outputs it has of its own."""

import inspect
from typing import Any

from torch import Tensor, nn

from zeropoint.data.nested import flatten
from zeropoint.graph.signature import Signature

PREFIX = "model."
"""What the names of the model's own modules and tensors begin with in a FlatModel."""


class FlatModel(nn.Module):
    """Calls ``model`` as its ``signature`` says, on flat tensors, and gives its output tensors.

    ``structures`` has the structure of the outputs of the last call, if there was one.
    """

    def __init__(self, model: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.model, self.signature = model, signature
        self.structures: list[Any] = []
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind) for name in signature.input_names]

        def forward(*tensors: Tensor) -> Any:
            args, kwargs = signature.call(tensors)
            outputs, structure = flatten(model(*args, **kwargs))
            self.structures[:] = [structure]
            values = tuple(outputs.values())
            return values[0] if len(values) == 1 else values

        forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # names of inputs
        self.forward = forward
