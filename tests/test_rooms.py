"""The package's rooms: what lies where, and which room may import from which."""

import ast
import graphlib
from pathlib import Path

import zeropoint

PACKAGE = Path(zeropoint.__file__).parent
FILES = {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
}

# Folders, and files of the top: each imports from those before it, and from none after it.
ROOMS = (
    "errors", "versions", "progress", "memory", "files", "torch_private",
    "models", "data", "tasks", "numerics", "graph", "training", "targets", "passes", "methods", "engines",
    "exports", "quantization", "measure", "parts", "tuning", "inspection", "diagnosis", "report",
    "comparison", "shipping", "cli",
)  # fmt: skip


def imports(module: str) -> set[str]:
    """The modules of the package that a module imports, wherever in it, but for type checkers alone."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    for_types = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for part in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in for_types:
            source = (node.module or "").removeprefix("zeropoint").lstrip(".")
            if (node.module or "").split(".")[0] == "zeropoint":
                inside = [f"{source}.{alias.name}".lstrip(".") for alias in node.names]
                found |= {name if name in FILES else source for name in inside}
    return found - {"", module}


def test_imports_go_one_way_between_rooms():
    for module in FILES.keys() - {"__init__", "__main__"}:
        room = module.split(".")[0]
        later = {name for name in imports(module) if ROOMS.index(name.split(".")[0]) > ROOMS.index(room)}
        assert not later, f"{module} imports {later}, which come after {room}"


def test_no_two_files_import_each_other():
    order = graphlib.TopologicalSorter({module: imports(module) for module in FILES}).static_order()
    assert set(order) >= FILES.keys()


def test_every_room_is_listed_and_the_top_is_small():
    top = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert top - {"__init__", "__main__"} == set(ROOMS)
    assert sum(path.is_file() for path in PACKAGE.glob("*.py")) <= 8
