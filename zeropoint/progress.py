"""Progress bars with the time left, on stderr, where a person is looking."""

import operator
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

T = TypeVar("T")
_quiet = False


def be_quiet(quiet: bool) -> None:
    """Whether to show no progress from now on, even where stderr is a terminal."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether the user asked for no progress and no word of what is being done."""
    return _quiet


def is_watched() -> bool:
    """Whether a person is looking: stderr is a terminal, and nobody asked for quiet."""
    return sys.stderr.isatty() and not is_quiet()


def track(items: Iterable[T], description: str, *, done: int = 0) -> Iterator[T]:
    """The items, with a progress bar that goes when they end; silent where nobody is looking.

    The bar starts at ``done``, a number of items of an earlier run that come before these.
    """
    length = operator.length_hint(items)
    yield from rich_track(
        items,
        description,
        total=done + length if length else None,
        completed=done,
        console=Console(stderr=True),
        transient=True,
        disable=not is_watched(),
    )
