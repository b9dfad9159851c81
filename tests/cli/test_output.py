"""Tables on narrow terminals: in parts, of which nothing is cut off."""

import io

import pytest
from rich.console import Console, Group
from rich.table import Table

from zeropoint.cli import output


def printed(table: Table, width: int, monkeypatch: pytest.MonkeyPatch, key: int = 1) -> str:
    file = io.StringIO()
    monkeypatch.setattr(output, "Console", lambda width: Console(file=file, width=width))
    monkeypatch.delenv("COLUMNS", raising=False)
    output.print_table(Group("title", table), key=key, width=width)
    return file.getvalue()


@pytest.fixture
def table() -> Table:
    table = Table(*(f"header-{number}" for number in range(8)), box=None)
    for column in table.columns:
        column.no_wrap = True
    for row in range(3):
        table.add_row(*(f"cell-{row}-{number}" for number in range(8)))
    return table


def test_a_table_that_fits_is_printed_as_it_is(table: Table, monkeypatch: pytest.MonkeyPatch):
    lines = printed(table, 100, monkeypatch).splitlines()
    assert lines[1].split() == [f"header-{number}" for number in range(8)]
    assert len(lines) == 5


def test_a_wide_table_is_printed_in_parts_with_its_first_columns(
    table: Table, monkeypatch: pytest.MonkeyPatch
):
    shown = printed(table, 40, monkeypatch, key=2)
    assert max(map(len, shown.splitlines())) <= 40
    for number in range(8):
        assert shown.count(f"header-{number}") == (3 if number < 2 else 1)
        assert shown.count(f"cell-2-{number}") == (3 if number < 2 else 1)
