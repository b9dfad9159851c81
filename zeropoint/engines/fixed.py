"""Artefacts of one size of inputs: what they say of it, and how batches of other sizes are run on them."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zeropoint.engines.engine import Run
from zeropoint.errors import InputError
from zeropoint.graph.program import Program, flat_tensors

# Keys of an artefact's metadata: the batch size that it is compiled for, "" if the batch is not free, the
# shapes of its inputs, and the axis of the batch of each output.
BATCH, SHAPES, AXES = "zeropoint_batch", "zeropoint_shapes", "zeropoint_axes"


def facts(program: Program) -> dict[str, str]:
    """The metadata of an artefact that is made for the example inputs of a Program."""
    return {
        BATCH: str(program.example_inputs[0].shape[0]) if program.dynamic_batch else "",
        AXES: json.dumps(program.batch.outputs),
        SHAPES: json.dumps([list(tensor.shape) for tensor in program.example_inputs]),
    }


def settings(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The batch size, 0 if the batch is not free, and the axes of the batch in the outputs."""
    return {"batch": int(metadata.get(BATCH) or 0), "output_axes": json.loads(metadata.get(AXES, "[]"))}


def check_batch(metadata: Mapping[str, str], batch_size: int, path: object) -> None:
    """Raises InputError for an artefact of another batch size: it pads or splits a batch."""
    size = metadata.get(BATCH)
    if size and int(size) != batch_size:
        raise InputError(f"{path} is compiled for batches of {size}; give --batch-size {size}")


def sized(call: Callable[..., Any], metadata: Mapping[str, str], what: str) -> Callable[..., Any]:
    """``call``, which does not check its inputs, for the sizes that it is compiled for, and no others.

    Batches of any size are run in pieces. ``what`` takes one size, as messages name it.
    """
    shapes = [tuple(shape) for shape in json.loads(metadata.get(SHAPES, "[]"))]
    known = settings(metadata)
    first = 1 if known["batch"] else 0  # any batch is split to the size
    whole = _in_batches(call, known["batch"], known["output_axes"]) if first else call

    def run(*inputs: Tensor) -> Any:
        for number, (tensor, shape) in enumerate(zip(inputs, shapes, strict=bool(shapes)), 1):
            sizes = tuple(tensor.shape)
            if sizes[first:] != shape[first:]:
                axis = next(i for i in range(first, len(shape)) if sizes[i : i + 1] != shape[i : i + 1])
                raise InputError(
                    f"input {number} has shape {sizes}; {what} takes one size, here"
                    f" {shape[axis]} along axis {axis}: capture on such inputs and compile another, with a"
                    " batch_size if that axis is the batch, or run it on onnxruntime or openvino"
                )
        return whole(*inputs)

    return run


def _in_batches(call: Callable[..., Any], size: int, axes: Sequence[int | None]) -> Run:
    """``call``, which takes batches of one size, for batches of any size; the last one is padded.

    ``axes``: along which the items of each output lie; of one without a batch the first part is given.
    """

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        count = len(inputs[0])
        if count == size:
            return flat_tensors(call(*inputs))
        missing = -count % size
        full = [torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) for tensor in inputs]
        parts = [
            flat_tensors(call(*batch)) for batch in zip(*(tensor.split(size) for tensor in full), strict=True)
        ]
        return tuple(
            outputs[0] if axis is None else torch.cat(outputs, axis).narrow(axis, 0, count)
            for outputs, axis in zip(zip(*parts, strict=True), axes or [0] * len(parts[0]), strict=True)
        )

    return run
