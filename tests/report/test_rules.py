"""What rules decided, as tables, and the page of all rules."""

import runpy
from pathlib import Path

from networks import ADDS_INSIDE, images, options, residual, static
from rich.console import Console

import zeropoint
from zeropoint.graph.program import load
from zeropoint.report import rules

DOCS = Path(zeropoint.__file__).parents[1] / "docs"


def shown(program, layer=None) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(rules.terminal(program, layer))
    return capture.get()


def test_decisions_of_a_saved_program(tmp_path):
    program = static(residual(), ADDS_INSIDE, [images()], options(skip=("inner",)))
    program.save(tmp_path / "m.pt2")
    for one in (program, load(tmp_path / "m.pt2")):
        lines = [line.split() for line in shown(one).splitlines()]
        assert ["stem", "weight", "of", "a", "layer", "yes"] in lines
        assert "skipped by the user ('inner')" in shown(one, "inner")
        assert "stem" not in shown(one, "inner").split("Did not apply")[0]
        # stem, inner and head: two of three weights
        assert ["weight", "of", "a", "layer", "2", "1"] in lines


def test_a_float_program_has_none():
    assert "holds no decisions" in shown(residual())


def test_the_page_of_rules_is_up_to_date():
    page = runpy.run_path(str(DOCS / "rules.py"))["page"]()
    assert (DOCS / "rules.md").read_text(encoding="utf-8") == page
