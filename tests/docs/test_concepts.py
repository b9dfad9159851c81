"""The pictures of the page of concepts are those that the script draws, and what they say is right."""

import re
import runpy
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
DRAWN = runpy.run_path(str(DOCS / "concepts.py"))["DRAWN"]


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_up_to_date_and_inside_its_frame(name):
    text = (DOCS / "concepts" / f"{name}.svg").read_text(encoding="utf-8")
    assert text == DRAWN[name]()
    root = ElementTree.fromstring(text)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for part in root.iter("{http://www.w3.org/2000/svg}text"):
        assert 0 < float(part.attrib["x"]) < width
        assert 0 < float(part.attrib["y"]) < height


def test_every_picture_is_on_the_page_with_a_description():
    page = (DOCS / "concepts.md").read_text(encoding="utf-8")
    shown = re.findall(r"^!\[(.{20,})\]\(concepts/(\w+)\.svg\)$", page, re.MULTILINE)
    assert [name for _, name in shown] == list(DRAWN)


def test_the_example_on_the_grid_is_right():
    assert round(0.22 / 0.15 + 6) == 7
    assert "0.22 / 0.15 + 6 = 7.47, rounded 7; it stands for 0.15 · (7 − 6) = 0.15" in DRAWN["grid"]()
    assert "lost: 32,003" in DRAWN["saturation"]()  # 2 · 255 · 127 - 32,767
