"""Progress bars with the time left, on stderr, where a person is looking."""

import operator
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

T = TypeVar("T")


def track(items: Iterable[T], description: str) -> Iterator[T]:
    """The items, with a progress bar that goes when they end; silent where stderr is no terminal."""
    console = Console(stderr=True)
    length = operator.length_hint(items) or None
    yield from rich_track(
        items, description, total=length, console=console, transient=True, disable=not sys.stderr.isatty()
    )
