"""Answers: what outputs and targets say of one sample, in words and as something to draw."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zeropoint.errors import InputError
from zeropoint.tasks.outputs import main

FEW = 16  # values that are told; of more, such as those of an embedding, none says much alone
TOLD = 4  # values or classes that are told of one sample
SURE = 0.5  # the score from which on a box counts as found

Names = Sequence[str]
"""The names of classes by number; empty if they are not known."""


class Box(NamedTuple):
    """A box around an object by its corners, in pixels, and what it is in words."""

    x1: float
    y1: float
    x2: float
    y2: float
    words: str


@dataclass(frozen=True)
class Answer:
    """What a network, or a label, says of one sample.

    ``words``: "" if there is nothing short to say. ``mask``: the class number of each pixel, int64 (H, W).
    ``boxes``: around objects. ``signal``: the values themselves, if they may be an image or a sound. Tensors
    are copies: engines write the next batch over an output.
    """

    words: str = ""
    mask: Tensor | None = None
    boxes: tuple[Box, ...] = ()
    signal: Tensor | None = None


Read = Callable[[Any, int, Names], Answer]


class Reader(NamedTuple):
    """How a batch's outputs, and its targets, are read: each for the sample of a number."""

    answer: Read
    label: Read


def read(reader: Read, batch: Any, number: int, names: Names) -> Answer:
    """What outputs or targets say of a sample; nothing if they are not such as the task has them."""
    try:
        return reader(batch, number, names)
    except (InputError, LookupError, TypeError, ValueError):
        return Answer()


def class_name(number: int, names: Names) -> str:
    """How a class is called: "class 3", or "class 3, cat"."""
    return f"class {number}, {names[number]}" if 0 <= number < len(names) else f"class {number}"


def _values(outputs: Any, number: int, names: Names) -> Answer:
    value = main(outputs)[number]
    if value.numel() > FEW or value.dim() > 1:
        may_be_signal = value.dim() == 1 or (value.dim() < 4 and value.shape[0] in (1, 3))
        return Answer(signal=value.clone() if may_be_signal else None)
    if not torch.isfinite(value).all():
        return Answer("NaN or infinity")
    more = ", …" if value.numel() > TOLD else ""
    return Answer(", ".join(f"{one:.4g}" for one in value.reshape(-1)[:TOLD].tolist()) + more)


def _class(outputs: Any, number: int, names: Names) -> Answer:
    """The class of the highest score, with its probability by a softmax, unless the scores are such."""
    scores = main(outputs)
    if scores.dim() != 2 or scores.shape[1] < 2:
        return _values(outputs, number, names)
    value = scores[number].double()
    if not torch.isfinite(value).all():
        return Answer("NaN or infinity")
    are_probabilities = value.min() >= 0 and abs(float(value.sum()) - 1) < 1e-3
    shares = value if are_probabilities else value.softmax(0)
    best = int(value.argmax())
    names = names if len(names) == len(value) else ()
    return Answer(f"{class_name(best, names)} ({float(shares[best]):.1%})")


def _class_number(targets: Any, number: int, names: Names) -> Answer:
    label = targets[number]
    is_number = isinstance(label, Tensor) and label.numel() == 1 and not label.is_floating_point()
    return Answer(class_name(int(label), names)) if is_number else Answer()


def _positive(values: Tensor, names: Names) -> Answer:
    """The numbers of the labels that are set."""
    found = [names[i] if len(names) == len(values) else str(i) for i in torch.where(values)[0].tolist()]
    return Answer("labels " + ", ".join(found) if found else "no label")


def _labels(outputs: Any, number: int, names: Names) -> Answer:
    return _positive(main(outputs)[number].reshape(-1) > 0, names)  # logits


def _set_labels(targets: Any, number: int, names: Names) -> Answer:
    return _positive(main(targets)[number].reshape(-1) > 0.5, names)


def _pixels(outputs: Any, number: int, names: Names) -> Answer:
    scores = main(outputs)
    if scores.dim() != 4:
        return Answer()
    if not torch.isfinite(scores[number]).all():
        return Answer("NaN or infinity")
    return _masked(scores[number].argmax(0), names if len(names) == scores.shape[1] else ())


def _masked(mask: Tensor, names: Names) -> Answer:
    """A mask, with the classes of most pixels in words."""
    classes, counts = mask.unique(return_counts=True)
    shares = sorted(zip((-counts).tolist(), classes.tolist(), strict=True))
    words = [f"{class_name(one, names)}: {-count / mask.numel():.1%}" for count, one in shares[:TOLD]]
    return Answer("; ".join(words) + ("; …" if len(shares) > TOLD else ""), mask=mask)


def _class_of_pixels(targets: Any, number: int, names: Names) -> Answer:
    mask = main(targets)[number]
    return _masked(mask.long().reshape(mask.shape[-2:]).clone(), names) if mask.dim() in (2, 3) else Answer()


def _boxes(given: Any, number: int, names: Names) -> Answer:
    """The boxes of an image that are sure: all those of targets, which have no scores."""
    image = given[number]
    if not isinstance(image, Mapping) or not {"boxes", "labels"} <= image.keys():
        return Answer()
    scores = image.get("scores", torch.ones(len(image["boxes"])))
    sure = scores >= SURE
    kept = zip(*(one[sure].tolist() for one in (image["boxes"], image["labels"], scores)), strict=True)
    found = []
    for (x1, y1, x2, y2), label, score in kept:
        sureness = f" ({score:.0%})" if "scores" in image else ""
        found.append(Box(x1, y1, x2, y2, class_name(int(label), names) + sureness))
    told = [box.words for box in found[:TOLD]] + ["…"] * (len(found) > TOLD)
    count = f"{len(found)} box" if len(found) == 1 else f"{len(found)} boxes"
    return Answer(": ".join(filter(None, (count, "; ".join(told)))), boxes=tuple(found))


CLASS = Reader(_class, _class_number)
LABELS = Reader(_labels, _set_labels)
PIXELS = Reader(_pixels, _class_of_pixels)
BOXES = Reader(_boxes, _boxes)
VALUES = Reader(_values, _values)
UNREAD = Reader(lambda *_: Answer(), lambda *_: Answer())  # of numbers that say nothing to people: tokens
EMBEDDED = Reader(UNREAD.answer, CLASS.label)
