"""Output of the commands: results on stdout, and messages on stderr."""

import copy
import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table

out, err = Console(), Console(stderr=True)
LONG = 14  # columns of a cell, above which it may be folded


def say(line: str, style: str = "") -> None:
    """Prints a line on stdout, which a terminal wraps and a file keeps whole."""
    out.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def print_json(record: dict[str, Any]) -> None:
    """Prints plain values as JSON."""
    print(json.dumps(record, indent=2, allow_nan=False))


def print_table(shown: RenderableType, key: int = 1, width: int = 160) -> None:
    """Prints tables so that nothing is cut off: one that is too wide in parts, one below the other.

    Each part begins with the first ``key`` columns. ``width`` is that of a file or a pipe.
    """
    console = Console(width=None if out.is_terminal or "COLUMNS" in os.environ else width)
    for part in _fitting(console, shown, key):
        console.print(part)


def _fitting(console: Console, shown: RenderableType, key: int) -> Iterator[RenderableType]:
    if isinstance(shown, Group):
        for part in shown.renderables:
            yield from _fitting(console, part, key)
        return
    table, free = shown, console.width
    if isinstance(shown, Padding):
        table, free = shown.renderable, console.width - shown.left - shown.right
    if not isinstance(table, Table) or _width(console, table) <= free:
        yield shown
        return
    left = list(range(key, len(table.columns)))
    while left:
        count = len(left)
        while count > 1 and _width(console, _of_columns(table, [*range(key), *left[:count]])) > console.width:
            count -= 1
        yield _of_columns(table, [*range(key), *left[:count]])
        left = left[count:]
        if left:
            yield ""


def _width(console: Console, table: Table) -> int:
    """The least width of a table in which no cell is cut off, and only long ones are folded."""
    options = console.options.update(max_width=10_000)
    total = len(table.columns) - 1 if table.box else 0  # between columns
    for number, column in enumerate(table.columns):
        width = Measurement.get(console, options, _of_columns(table, [number]))
        folded = min(width.minimum, LONG) if column.overflow == "fold" else width.minimum
        total += width.maximum if column.no_wrap else folded
    return total


def _of_columns(table: Table, numbers: list[int]) -> Table:
    part = copy.copy(table)
    part.columns = [
        dataclasses.replace(table.columns[number], _index=index) for index, number in enumerate(numbers)
    ]
    return part


def command_line() -> str:
    """The command of this process, as a shell reads it."""
    return shlex.join(["zeropoint", *sys.argv[1:]])
