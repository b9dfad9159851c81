"""What quantization changed most: samples and classes, as a run folder keeps them."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Outline:
    """A box over a picture: place and size as fractions of the picture's, and whose it is."""

    x: float
    y: float
    width: float
    height: float
    words: str
    by: Literal["float32", "row"]


@dataclass(frozen=True)
class Media:
    """A picture (PNG) or a sound (WAV) in the folder ``samples`` of a run, and what it shows."""

    file: str
    caption: str
    outlines: tuple[Outline, ...] = ()


@dataclass(frozen=True)
class ChangedSample:
    """A sample whose outputs quantization moved far from float32's.

    ``index``: its place in the evaluation data, from 0. ``float32``, ``row`` and ``label``: the answers of
    both and the label in words, "" where there is nothing short to say. ``changed``: how many of its
    classes, pixels, boxes or tokens are no longer float32's, and how many there are. ``fidelity``: that of
    the task for this sample alone. ``sqnr_db``: of its outputs. Both are None if they are not finite.
    ``media``: its input and outputs as pictures or sounds.

    >>> data = zp.Loaders("mine", calibration=batches, evaluation=batches)
    >>> results = zp.compare(program, data, out="run", methods=["static"], engines=["openvino"])
    >>> first = results.rows[0].changed_samples[0]
    >>> 0 <= first.index < 16
    True
    >>> first.media[0].file == f"{first.index}-input.png"
    True
    """

    index: int
    float32: str
    row: str
    label: str = ""
    changed: tuple[int, int] | None = None
    fidelity: float | None = None
    sqnr_db: float | None = None
    media: tuple[Media, ...] = ()

    def __post_init__(self) -> None:
        for name in ("fidelity", "sqnr_db"):  # JSON has neither NaN nor infinity
            value = getattr(self, name)
            object.__setattr__(self, name, value if value is not None and math.isfinite(value) else None)


@dataclass(frozen=True)
class ChangedClass:
    """A class by its label: its samples, those of another predicted class, and the top-1 of both runs."""

    name: str
    samples: int
    changed: int
    float32: float
    row: float
