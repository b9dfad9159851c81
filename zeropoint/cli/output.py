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
from rich.table import Table

out, err = Console(), Console(stderr=True)


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
    for part in shown.renderables if isinstance(shown, Group) else [shown]:
        if isinstance(part, Table):
            console.print(*_parts(console, part, key), sep="\n\n")
        else:
            console.print(part)


def _parts(console: Console, table: Table, key: int) -> Iterator[Table]:
    first, columns = range(key), list(range(key, len(table.columns)))
    while columns:
        count = len(columns)
        while count > 1 and not _fits(console, _of_columns(table, [*first, *columns[:count]])):
            count -= 1
        yield _of_columns(table, [*first, *columns[:count]])
        columns = columns[count:]


def _fits(console: Console, table: Table) -> bool:
    unlimited = console.options.update(max_width=10_000)
    return Measurement.get(console, unlimited, table).minimum <= console.width


def _of_columns(table: Table, numbers: list[int]) -> Table:
    part = copy.copy(table)
    part.columns = [
        dataclasses.replace(table.columns[number], _index=index) for index, number in enumerate(numbers)
    ]
    return part


def command_line() -> str:
    """The command of this process, as a shell reads it."""
    return shlex.join(["zeropoint", *sys.argv[1:]])
