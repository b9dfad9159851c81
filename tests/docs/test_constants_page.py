"""The page of constants is made of what the code says."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_spec = importlib.util.spec_from_file_location("constants", DOCS / "constants.py")
assert _spec is not None
assert _spec.loader is not None
page_of_constants = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(page_of_constants)

SOURCE = """
# How far a step goes,
# by measurement.
RATE, SLOW = 0.1, -1e-3  # of the first
WORK = 1 << 36  # multiply-accumulates
PLAIN = 3

NAME = "static"  # no number
lower = 2  # no constant
TABLE = {1: 2}  # no number either
FOUND = len("abc")  # computed
"""


def test_numbers_with_comments_are_found():
    assert page_of_constants.constants(SOURCE) == [
        ("RATE, SLOW", "0.1, -1e-3", "of the first", "How far a step goes, by measurement."),
        ("WORK", "1 << 36", "multiply-accumulates", ""),
    ]


def test_the_page_has_a_table_for_each_room():
    page = (DOCS / "constants.md").read_text(encoding="utf-8")
    assert page.startswith(page_of_constants.START)
    assert page.count(page_of_constants.HEAD) > 5
