"""The commands and the code of the pages for newcomers run as they stand, and print what the page shows.

Of a page, blocks run in order in one folder: ``python`` in one namespace, or into the file of its title;
``console`` line by line. What a command prints is compared without numbers and line breaks, and without what
depends on the machine.
"""

import importlib.util
import logging
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from zeropoint import cli

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PATH = [DOCS / "path" / f"{name}.md" for name in
        ("install", "first-table", "your-model", "reading", "lost-accuracy", "deploy")]  # fmt: skip
ALONE = [DOCS / "cookbook.md", *sorted((DOCS / "coming-from").glob("*.md"))]
ALONE += sorted((DOCS / "published").glob("*.md"))
OTHERS = {"torch.ao": "torch.ao", "torchao": "torchao", "NNCF": "nncf", "AIMET": "aimet_torch"}
FITS = ("compare", "quantize", "diagnose", "qat")  # commands that a test gives a part of the digits
MACHINE = re.compile(r"warning|ok   |\d+\.body\.")  # lines that differ from one to another: layers, too
BLOCK = re.compile(r"^```(python|console|bash)(?: title=\"([^\"]+)\")?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def given() -> dict[str, Any]:
    """The names that pages take for granted: a model and its data."""
    torch.manual_seed(0)
    layers = {"conv1": nn.Conv2d(3, 8, 3), "bn1": nn.BatchNorm2d(8), "relu": nn.ReLU()}
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(8, 4)}
    images = [torch.randn(4, 3, 12, 12) for _ in range(2)]
    labelled = [(batch, torch.arange(4)) for batch in images]
    names = {"model": nn.Sequential(OrderedDict(layers)).eval(), "example": images[0]}
    return names | {"batches": images, "train_loader": labelled, "evaluation_loader": labelled}


def printed(block: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with what it is said to print."""
    parts = re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]
    return [(command.strip(), shown) for command, _, shown in (part.partition("\n") for part in parts)]


def plain(text: str) -> str:
    """The text without numbers, rules, marks and breaks, without the verdict, and without the machine."""
    parts = [part for part in re.split(r"\n\s*\n", text) if not part.startswith("Ship ")]
    lines = [line for line in "\n\n".join(parts).splitlines() if not MACHINE.match(line)]
    text = re.sub(r"measured on .*?(?=\nResults|\Z)", "", "\n".join(lines), flags=re.DOTALL)
    return re.sub(r"[\s─*+]+", " ", re.sub(r"-?\d[\d.,]*", "#", text)).strip()


def agrees(shown: str, found: str) -> bool:
    """Whether a page shows what was found; ``...`` stands for any lines."""
    parts = [re.escape(plain(part)) for part in re.split(r"^\.\.\.$", shown, flags=re.MULTILINE)]
    return re.fullmatch(r"\s*.*?\s*".join(parts), plain(found), re.DOTALL) is not None


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Runs a command line; gives what it prints."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(line: str) -> str:
        capsys.readouterr()
        words = shlex.split(line)
        if words[0] == "zeropoint":
            if words[1] in FITS and "digits" in words:
                words += ["--limit-batches", "4"]
            monkeypatch.setattr(sys, "argv", words)
            with pytest.raises(SystemExit) as exit_:
                cli.main()
            out, err = capsys.readouterr()
            assert not exit_.value.code, f"{line}: {err}"
            return out
        assert words[0] == "python", line
        if "/" in words[1]:  # a script that goes elsewhere, with imports of its own
            done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            return done.stdout
        runpy.run_path(words[1], run_name="__main__")
        return capsys.readouterr().out

    yield run
    logging.disable(logging.NOTSET)


def play(page: Path, names: dict[str, Any], run: Any) -> Iterator[tuple[str, str, str]]:
    """Runs the blocks of a page; gives each command with what the page shows, and what it printed."""
    for kind, title, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "console":
            yield from ((line, shown, run(line)) for line, shown in printed(block))
        elif kind == "python" and title.endswith(".py"):
            Path(title).write_text(block, encoding="utf-8")
        elif kind == "python" and (title not in OTHERS or importlib.util.find_spec(OTHERS[title])):
            exec(compile(block, f"{page.name}, after {title or 'the last block'}", "exec"), names)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new folder to run in, whose modules can be imported; they are forgotten at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.slow
def test_the_path_can_be_followed(folder, command):
    names: dict[str, Any] = {}
    for page in PATH:
        for line, shown, found in play(page, names, command):
            assert not shown.strip() or agrees(shown, found), f"{page.name}: {line}\n{found}"
    assert (folder / "deploy" / "verify.py").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", ALONE, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page, folder, command):
    for line, shown, found in play(page, given(), command):
        assert not shown.strip() or agrees(shown, found), f"{line}\n{found}"


def test_the_shell_blocks_name_what_exists():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    for page in [*PATH, *ALONE]:
        for kind, _, block in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in block.splitlines() if kind == "bash" else ():
                first, *words = shlex.split(line)
                assert first in ("make", "pip", "source"), line
                assert first != "make" or set(words) <= set(targets)
                assert first != "pip" or {*words[1][2:-1].split(",")} <= extras.keys(), line


@pytest.mark.parametrize(
    ("shown", "found", "same"),
    [
        ("a  1.5 *b", "a 22 b\n", True),
        ("a\n...\nd", "a\nb\nc\nd", True),
        ("a\nd", "a\nb\nd", False),
        ("a\n\nShip x: 1 ms\n", "a\n\nShip y: 2 s; much longer\n", True),
        ("100 - ok", "99 - failed", False),
    ],
)
def test_what_is_shown_is_compared(shown, found, same):
    assert agrees(shown, found) is same
