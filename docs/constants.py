"""Writes docs/constants.md: the numeric constants of the package, with the comments beside and above them.

The day is that of the first commit with the name and the value; it is empty without git.
"""

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "constants.md"
START = """# Constants

These numbers were chosen by measurement, taken from a paper, or limit time and memory. The page is made
from the comments in the code: `make docs` writes it again. A note on a block of constants is in the row of
the first one.

*Since* is the day on which the value was chosen. The benchmark results of the days up to 2026-11-22 are
from an AMD EPYC with VNNI, those of 2026-11-25 and 2026-11-26 from an Intel Xeon with VNNI, those of
2026-11-28 from an AMD EPYC with AVX2 and without VNNI, and those of 2026-11-29 from one of the latter two. A
constant was most likely measured on the machine of its day, unless its note names another one.
"""
HEAD = "| constant | value | reason | file | since |\n| :-- | :-- | :-- | :-- | :-- |\n"
NAMES = re.compile(r"[A-Z][A-Z0-9_]*(, [A-Z][A-Z0-9_]*)*")


def constants(source: str) -> list[tuple[str, str, str, str]]:
    """Name, value, the comment beside and the comment above, of numeric constants with a comment."""
    lines, found = source.splitlines(), []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign) or node.lineno != node.end_lineno or not is_numeric(node.value):
            continue
        name, _, rest = lines[node.lineno - 1].partition(" = ")
        value, _, beside = rest.partition("  # ")
        note = above(lines[: node.lineno - 1])
        if NAMES.fullmatch(name) and (beside or note):
            found.append((name, value, beside, note))
    return found


def is_numeric(value: ast.expr) -> bool:
    """Whether an expression is made of numbers and operators alone."""
    numbers = [part.value for part in ast.walk(value) if isinstance(part, ast.Constant)]
    is_plain = not any(isinstance(part, ast.Name | ast.Call | ast.Dict | ast.Set) for part in ast.walk(value))
    return bool(numbers) and is_plain and all(type(number) in (int, float) for number in numbers)


def above(lines: list[str]) -> str:
    """The comment lines that come last."""
    count = 0
    while count < len(lines) and lines[-count - 1].startswith("# "):
        count += 1
    return " ".join(line.removeprefix("# ") for line in lines[len(lines) - count :])


def since(text: str, path: Path) -> str:
    """The day of the first commit with this text in a file, which may have had another name."""
    command = ["git", "log", "--follow", "--format=%as", "-S", text, "--", path]
    days = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()
    return days[-1] if days else ""


def page() -> str:
    """The page, with a table for each room."""
    text, room = START, ""
    for file in sorted((ROOT / "zeropoint").rglob("*.py")):
        path = file.relative_to(ROOT / "zeropoint")
        for name, value, beside, note in constants(file.read_text(encoding="utf-8")):
            if path.parts[0] != room:
                room = path.parts[0]
                text += f"\n## {room.removesuffix('.py')}\n\n{HEAD}"
            day = since(f"{name} = {value}", file)
            reason = ". ".join(filter(None, (beside, note)))
            cells = (f"`{name}`", f"`{value}`", reason, f"`{path.name}`", day)
            text += f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
