"""What the pages say about the repository is true: folders, links, public names, engines, make targets."""

import ast
import re
from pathlib import Path

import pytest

import zeropoint
from zeropoint.engines import NAMES
from zeropoint.targets.recipe import Row, load

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *DOCS.rglob("*.md")]
PACKAGE = ROOT / "zeropoint"


def folders(of: Path) -> set[str]:
    """The names of the folders with Python or Markdown files in them."""
    return {file.relative_to(of).parts[0] for end in ("py", "md") for file in of.glob(f"[!.]*/**/*.{end}")}


def rooms() -> list[str]:
    """The rooms in order, as in the test of imports."""
    tree = ast.parse((ROOT / "tests" / "test_rooms.py").read_text(encoding="utf-8"))
    values = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    return list(ast.literal_eval(values["ROOMS"]))


def table_of_rooms(page: Path) -> list[tuple[str, str]]:
    """The rooms that a page lists, each with its line."""
    return re.findall(r"^\| `(\w+)` \| (.+) \|$", page.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_architecture_lists_the_rooms_in_order():
    listed = [name for name, _ in table_of_rooms(DOCS / "architecture.md")]
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert listed == rooms()
    assert set(listed) == folders(PACKAGE) | files


def test_the_guide_for_contributors_lists_the_same():
    assert table_of_rooms(ROOT / "CONTRIBUTING.md") == table_of_rooms(DOCS / "architecture.md")


def test_the_readme_shows_the_folders():
    layout = (ROOT / "README.md").read_text(encoding="utf-8").split("## Layout")[1]
    assert set(re.findall(r"^(\w+)/", layout, re.MULTILINE)) == folders(ROOT) - {"build", "runs"}
    inside = [line for line in layout.splitlines() if line.startswith("  ")]
    assert {name for line in inside for name in re.findall(r"(\w+)/", line)} == folders(PACKAGE)


def test_the_reference_has_every_public_name_once():
    names = re.findall(r"^::: zeropoint\.(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(names) == sorted(zeropoint.__all__)


def test_every_engine_has_a_page():
    assert {page.stem for page in (DOCS / "engines").glob("*.md")} == set(NAMES)


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    pages = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
    assert sorted(re.findall(r": (\S+\.md)$", menu, re.MULTILINE)) == pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_and_scripts_exist(page):
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^ {4})make ([\w-]+)", text, re.MULTILINE)) <= targets
    scripts = re.findall(r"python ((?:benchmarks|docs|examples)/\S+\.py)", text)
    assert not [script for script in scripts if not (ROOT / script).exists()]


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / "examples").glob("*.py")], ids=lambda page: page.name)
def test_names_of_the_package_exist(page):
    assert set(re.findall(r"\bzp\.(\w+)", page.read_text(encoding="utf-8"))) <= set(zeropoint.__all__)


def test_the_recipe_of_the_guide_is_one(tmp_path):
    (example,) = re.findall(
        r"^```json\n(.*?)^```", (DOCS / "guide.md").read_text(encoding="utf-8"), re.M | re.S
    )
    (tmp_path / "recipe.json").write_text(example, encoding="utf-8")
    assert load(tmp_path / "recipe.json") == (
        Row(weight_bits=4),
        Row("layer4.*", 8),
        Row("conv1", float=True),
    )
