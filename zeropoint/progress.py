"""Progress output on stderr: bars with the time left on a terminal, and lines for the command line."""

import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

T = TypeVar("T")
_quiet, _has_lines, _subject = False, False, ""


def be_quiet(quiet: bool) -> None:
    """Turns all progress output off or on."""
    global _quiet
    _quiet = quiet


def show_lines() -> None:
    """Lets ``say`` print. Only the command line asks for it: a library prints no lines by itself."""
    global _has_lines
    _has_lines = True


def is_watched() -> bool:
    """Whether bars are shown: stderr is a terminal, and progress output is on."""
    return sys.stderr.isatty() and not _quiet


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Lines and bars begin with ``subject`` inside, as in "static W8A8 for openvino: calibrating"."""
    global _subject
    before, _subject = _subject, subject
    try:
        yield
    finally:
        _subject = before


def say(line: str) -> None:
    """Prints what is being done, if lines are on."""
    if _has_lines and not _quiet:
        Console(stderr=True).print(_named(line), style="dim", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def bar(description: str, total: int | None, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """A bar until the end of the block; the function it gives sets the steps done and the description.

    A description that is too long for the terminal goes on in a second line. ``total`` is None if unknown.
    """
    text = TextColumn("{task.description}", table_column=Column(ratio=1, overflow="fold"), markup=False)
    columns = (text, BarColumn(bar_width=8), TaskProgressColumn(), TimeRemainingColumn(compact=True))
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not is_watched(), transient=True, expand=True) as shown:
        task = shown.add_task(_named(description), total=total, completed=done)
        yield lambda done, text: shown.update(task, completed=done, description=_named(text))


def track(items: Iterable[T], description: str, *, done: int = 0) -> Iterator[T]:
    """The items, with a bar. It starts at ``done``, a number of items that an earlier run has finished."""
    length = operator.length_hint(items)
    with bar(description, done + length if length else None, done) as update:
        for number, item in enumerate(items, start=done + 1):
            yield item
            update(number, description)


def _named(text: str) -> str:
    return f"{_subject}: {text}" if _subject else text
