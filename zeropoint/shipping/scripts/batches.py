"""Batches of any size on an artefact that takes one size; for engines whose Python has torch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def in_batches(
    call: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    inputs: Sequence[Tensor],
    size: int,
    axes: Sequence[int | None],
) -> Sequence[Tensor]:
    """The outputs of ``call``, which takes batches of ``size`` (any, if that is 0); the last one is padded.

    ``axes``: along which the items of each output lie; of one without a batch the first part is given.
    """
    if not size or len(inputs[0]) == size:
        return call(inputs)
    count = len(inputs[0])
    missing = -count % size
    full = [torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) for tensor in inputs]
    parts = [
        call([part.contiguous() for part in batch])
        for batch in zip(*(tensor.split(size) for tensor in full), strict=True)
    ]
    return [
        outputs[0] if axis is None else torch.cat(outputs, axis).narrow(axis, 0, count)
        for outputs, axis in zip(zip(*parts, strict=True), axes or [0] * len(parts[0]), strict=True)
    ]
