"""Tables for the terminal: a list of columns, each with its header, its cell of a row, and its alignment."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich import box
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

Item = TypeVar("Item")


@dataclass(frozen=True)
class Column(Generic[Item]):
    """A column: ``cell`` gives its text of an item. ``whole``: cells are never broken into several lines."""

    header: str
    cell: Callable[[Item], str | Text]
    justify: JustifyMethod = "left"
    whole: bool = False


def table(
    columns: Sequence[Column[Item]],
    items: Iterable[Item],
    *,
    style: Callable[[Item], str] = lambda item: "",
    gap: int = 1,
) -> Table:
    """A row for each item, in its ``style``; ``gap`` spaces between columns."""
    result = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, gap, 0, 0))
    for column in columns:
        result.add_column(Text(column.header), justify=column.justify, overflow="fold", no_wrap=column.whole)
    for item in items:
        cells = (column.cell(item) for column in columns)
        result.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells), style=style(item))
    return result
