"""The pages of the tasks name every task and every metric, and say the same as the overview."""

import re
from pathlib import Path

import pytest

from zeropoint.tasks import TASKS

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted((DOCS / "tasks").glob("*.md"))


def rows(page: Path) -> list[str]:
    """The rows of the table of tasks."""
    table = page.read_text(encoding="utf-8").split("\n| task |")[1].split("\n\n")[0]
    return table.splitlines()[2:]


def test_every_task_is_in_the_overview_with_all_its_metrics():
    found = {
        name: {one.strip() for one in ",".join(row.split("|")[4:6]).split(",")}
        for row in rows(DOCS / "tasks.md")
        for name in re.findall(r"`([\w-]+)`", row.split("|")[1])
    }
    assert found.keys() == TASKS.keys()
    for name, task in TASKS.items():
        known = {metric.name for metric in (*task.metrics, *task.more)}
        texts = " ".join(found[name])
        assert not [metric for metric in known if metric not in texts], name


def test_a_row_of_the_overview_is_on_one_page():
    on_pages = [row for page in PAGES for row in rows(page)]
    assert sorted(on_pages) == sorted(rows(DOCS / "tasks.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_a_command_with_its_table_and_says_when_to_use_a_metric(page):
    text = page.read_text(encoding="utf-8")
    assert re.search(r"^\$ zeropoint compare .*^Method ", text, re.MULTILINE | re.DOTALL)
    assert "## Which metric" in text
