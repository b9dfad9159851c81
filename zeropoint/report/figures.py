"""How numbers read in a report."""

import math
from collections.abc import Callable
from typing import TypeVar

from zeropoint.tasks.metric import Measure

IMAGE_TASKS = ("segmentation", "detection", "image-regression")
"""The tasks whose samples are images."""
IMAGE_DATA = ("digits", "imagefolder:", "coco:", "voc:")
"""The beginnings of the names of data of images, of any task."""
NOTHING = "–"
"""What a table shows for a value that was not measured or does not exist."""

_T = TypeVar("_T")


def known(value: _T | None, text: Callable[[_T], str] = str) -> str:
    """The ``text`` of a value, or NOTHING for None."""
    return NOTHING if value is None else text(value)


def figures(value: float, decimals: int = 3) -> str:
    """Three significant digits with at most ``decimals`` decimals, never an exponent: 0.421, 4.75, 1234."""
    wanted = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(wanted, 0), decimals)}f}"


def ratio(value: float) -> str:
    """A factor: 0.97, 3.43, 26.4."""
    return figures(value, decimals=2)


def percent(fraction: float) -> str:
    """A fraction of 1 in percent, without the sign: 98.61."""
    return f"{100 * fraction:.2f}"


def whole_percent(fraction: float) -> str:
    """A fraction of 1 in percent, rounded down: 100 means all."""
    return str(int(100 * fraction))


def decibels(sqnr_db: float | None) -> str:
    """An SQNR with its unit; None is infinite."""
    return "∞ dB" if sqnr_db is None else f"{sqnr_db:.1f} dB"


def megabytes(size: float) -> str:
    """Bytes in MB (10^6 bytes), without the unit."""
    return figures(size / 1e6)


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 thread, 2 threads."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def samples(number: int, data: str, task: str) -> str:
    """How many samples the data of that name has, called images where they are known to be such."""
    are_images = task in IMAGE_TASKS or data.startswith(IMAGE_DATA)
    return count(number, "image" if are_images else "sample")


def value_text(value: float, measure: Measure) -> str:
    """A metric's value with its unit: 98.61%, 31.24 dB, 0.1872; nan and inf as they are."""
    if not math.isfinite(value):
        return str(value)
    if measure.unit == "%":
        return f"{percent(value)}%"
    return " ".join(filter(None, (metric_figures(value), measure.unit)))


def metric_figures(value: float) -> str:
    """Four significant digits with at most four decimals."""
    wanted = 3 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(wanted, 0), 4)}f}"


def metric_header(measure: Measure) -> str:
    """The header of a metric's column, with its unit below."""
    name = measure.name.capitalize() if measure.name.islower() else measure.name  # Top-1, but mIoU
    return f"{name}\n{measure.unit}".rstrip()


def difference(value: float, measure: Measure, unit: bool = True) -> str:
    """The signed difference of two values of a metric: -0.50 points, +0.12 dB."""
    if measure.unit == "%":
        return f"{100 * value:+.2f}{' points' if unit else ''}"
    text = metric_figures(value)
    text = "0" if float(text) == 0 else text
    text = text if text.startswith("-") else f"+{text}"
    return " ".join(filter(None, (text, measure.unit if unit else "")))
