"""What outputs and targets hold, checked: scores with class numbers, values of equal shapes, and others."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zeropoint.errors import InputError

KEYS = ("logits", "out", "prediction", "predictions", "last_hidden_state")
"""Names of the main output: of transformers, of torchvision's segmentation, and others."""
FIX = "give a --task or a --metric that fits"


def main(outputs: Any) -> Tensor:
    """The main output: the tensor itself, the one named by the first of KEYS that is there, or the first one.

    Raises InputError if there is no tensor.
    """
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping) and outputs:
        return main(outputs[next((key for key in KEYS if key in outputs), next(iter(outputs)))])
    if isinstance(outputs, tuple | list) and outputs:
        return main(outputs[0])
    raise InputError(f"the outputs hold {described(outputs)} in the place of a tensor; {FIX}")


def described(value: Any) -> str:
    """A value's type, with the shape and type of a tensor."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, tuple | list | Mapping):
        parts = value if isinstance(value, Mapping) else sorted({type(one).__name__ for one in value})
        return f"a {type(value).__name__} of {', '.join(map(str, parts)) or 'nothing'}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def classes(outputs: Any, targets: Any, layout: str, ignored: int | None = None) -> tuple[Tensor, Tensor]:
    """Scores, and the class numbers of the targets as int64.

    ``layout`` names the axes of the scores, as in "NCHW": C are the classes, and the targets have the other
    axes. Raises InputError for other axes, other shapes, and class numbers that the model has not, other
    than ``ignored``.
    """
    scores, axis = main(outputs), layout.index("C")
    if scores.dim() != len(layout):
        raise InputError(f"the outputs are {described(scores)}, not scores ({', '.join(layout)}); {FIX}")
    shape = scores.shape[:axis] + scores.shape[axis + 1 :]
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.dtype == torch.bool:
        raise InputError(
            f"the targets are {described(targets)}, not integer class numbers {tuple(shape)}; {FIX}"
        )
    if targets.dim() == len(shape) + 1 and targets.shape[1] == 1:
        targets = targets.squeeze(1)
    elif not targets.dim() and shape == (1,):
        targets = targets.reshape(1)
    if targets.shape != shape:
        raise InputError(
            f"the targets are {described(targets)}, not class numbers {tuple(shape)} as the outputs"
            f" {tuple(scores.shape)} have them; {FIX}"
        )
    labels, count = targets.to(scores.device, torch.int64), scores.shape[axis]
    outside = (labels < 0) | (labels >= count)
    if ignored is not None:
        outside &= labels != ignored
    if outside.any():
        raise InputError(
            f"label {int(labels[outside][0])} is out of range: the model has {count} classes (0 to"
            f" {count - 1}); give labels of this model's classes"
        )
    return scores, labels


def values(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Outputs and targets as floats of equal shapes, samples first.

    Raises InputError for targets that are no tensor of the outputs' shape; axes of one element may differ.
    """
    predicted = main(outputs)
    if not isinstance(targets, Tensor) or targets.numel() != predicted.numel():
        raise InputError(
            f"the targets are {described(targets)}, not values {tuple(predicted.shape)} as the outputs; {FIX}"
        )
    sizes = [[size for size in one.shape if size != 1] for one in (predicted, targets)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"the targets are {described(targets)}, and the outputs {described(predicted)}; {FIX}"
        )
    return predicted.float(), targets.to(predicted.device).float().reshape(predicted.shape)


def samples(outputs: Any) -> int:
    """The number of samples of a batch's outputs: the length of the first tensor, or of a list of samples."""
    if isinstance(outputs, Mapping):
        return samples(next(iter(outputs.values()), None))
    if isinstance(outputs, tuple) and outputs:
        return samples(outputs[0])
    if isinstance(outputs, list):
        return len(outputs)
    return len(outputs) if isinstance(outputs, Tensor) and outputs.dim() else 1
