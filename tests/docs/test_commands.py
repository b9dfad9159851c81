"""Every command in the documentation is one that the command line understands."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from zeropoint.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += [ROOT / "Makefile", *sorted((ROOT / "examples").iterdir())]
# Options that the command line takes out before it parses the rest.
ANYWHERE = {"--debug", "--quiet"}
OF_TYPER = {"--help", "--install-completion", "--show-completion"}
OF_OTHERS = {"--nnodes", "--rdzv-endpoint"}  # torchrun's
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CALL = re.compile(r"^\s*(?:\$ |\$\(BIN\)/|torchrun .*-m )?zeropoint (.+)$", re.MULTILINE)


def in_blocks(page: Path) -> list[str]:
    """The arguments of every call of zeropoint on lines of their own in code."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    if page.suffix == ".md":
        indented = [line for line in FENCED.sub("", text).splitlines() if line.startswith("    ")]
        text = "\n".join([*FENCED.findall(text), *indented])
    return CALL.findall(text)


def in_sentences(page: Path) -> list[str]:
    """The arguments of every `zeropoint ...` inside a sentence."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    return re.findall(r"`zeropoint ([^`]+)`", text) if page.suffix == ".md" else []


def cases(find) -> list:
    return [pytest.param(call, id=f"{page.name}: {call}") for page in PAGES for call in find(page)]


def parse(call: str) -> None:
    """Raises typer's exception for an unknown command or option, or a value of the wrong type."""
    words = [word for word in shlex.split(call, comments=True) if word not in ANYWHERE]
    words = [word for word in words if not word.startswith("[")]  # what may be left out
    group = get_command(app)
    context = group.make_context("zeropoint", [words[0]])
    name, command, arguments = group.resolve_command(context, words)
    command.make_context(name, arguments, parent=context)


def options(command) -> list[str]:
    return [name for each in command.params for name in (*each.opts, *each.secondary_opts)]


def test_commands_are_found():
    assert len(cases(in_blocks)) > 30
    assert len(cases(in_sentences)) > 10


@pytest.mark.parametrize("call", cases(in_blocks))
def test_a_command_in_a_block_is_understood(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r"[\w-]+\.\w+", call):  # the command line reads some files
        Path(name).write_text("[]", encoding="utf-8")
    parse(call)


@pytest.mark.parametrize("call", cases(in_sentences))
def test_a_command_in_a_sentence_has_options_that_exist(call):
    name, *words = call.split()
    commands = get_command(app).commands
    assert name in commands.keys() | OF_TYPER
    known = {option for each in commands.values() if each.name == name for option in options(each)}
    given = {word for word in words if word.startswith("--")}
    assert given <= known | ANYWHERE | OF_TYPER


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".md"], ids=lambda page: page.name)
def test_an_option_named_in_a_sentence_exists(page):
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    group = get_command(app)
    known = {option for command in (group, *group.commands.values()) for option in options(command)}
    spans = [span for span in re.findall(r"`([^`]+)`", text) if span.startswith("--")]
    given = {name for span in spans for name in re.findall(r"--[a-z][\w-]*", span)}
    assert given <= known | OF_TYPER | OF_OTHERS


@pytest.mark.parametrize(
    "wrong", ["compre a.pt2", "bench m.pt2 --sconds 3", "bench m.pt2 --seconds many", "qat"]
)
def test_a_wrong_command_is_not_understood(wrong):
    with pytest.raises(typer.TyperException):
        parse(wrong)
