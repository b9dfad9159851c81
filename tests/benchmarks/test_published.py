"""The pages of published comparisons: the script fills every table of theirs."""

import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "published"


@pytest.fixture
def published(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("published")


def tables(page: str) -> dict[str, list[list[str]]]:
    """The rows of cells between each pair of marks."""
    found = re.findall(r"<!-- table (\w+) -->\n(.*?)<!-- end -->", page, re.DOTALL)
    rows = {name: [line.strip("| ").split(" | ") for line in text.splitlines()] for name, text in found}
    assert page.count("<!-- table") == len(found)
    return rows


@pytest.mark.slow  # every method of the pages, on a tiny network
def test_a_quick_run_fills_every_table(published, tmp_path):
    published.main(None, None, None, tmp_path, tmp_path / "work", True, tmp_path)
    for name in published.MADE:
        filled = tables((tmp_path / f"{name}.md").read_text(encoding="utf-8"))
        kept = tables((PAGES / f"{name}.md").read_text(encoding="utf-8"))
        assert filled.keys() == kept.keys()
        for table, (head, _, *rows) in filled.items():
            assert len(rows) > 0
            assert {len(row) for row in rows} == {len(head)}, table
            numbers = [cell for row in rows for cell in row[1:] if cell.strip() not in ("", "–")]
            assert all(re.match(r"[-+]?\d", cell) for cell in numbers), table


def test_a_page_shows_what_was_measured(published):
    record = json.loads((ROOT / "benchmarks" / "results" / "published.json").read_text(encoding="utf-8"))
    assert record
    for name, one in record.items():
        page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
        assert published.filled(page, one["tables"]) == page, name


def test_the_goals_of_size_are_kept():
    page = (PAGES / "sizes.md").read_text(encoding="utf-8")
    head, _, *rows = tables(page)["sizes"]
    column = head.index("`.pt2` ×")
    for row in rows:
        assert float(row[column]) > float(row[-1])  # more than in the comparison that was published


def test_a_table_that_was_not_measured_is_missed(published):
    with pytest.raises(KeyError):
        published.filled("<!-- table other -->\n<!-- end -->", {})
