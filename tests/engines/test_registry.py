"""An engine is one module with the members of Engine: one that is not among the three works everywhere."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from networks import images, residual

from zeropoint import engines
from zeropoint.cli.resolve import captured
from zeropoint.engines import artefact
from zeropoint.engines.engine import Engine
from zeropoint.errors import InputError
from zeropoint.graph.program import Program
from zeropoint.graph.program import load as load_program
from zeropoint.targets.target import Target


def members(engine: object) -> set[str]:
    return {name for name in dir(engine) if not name.startswith("_")}


@pytest.mark.parametrize("name", engines.NAMES)
def test_every_engine_has_every_member(name: str):
    assert members(Engine) | set(Engine.__annotations__) <= members(engines.named(name))


def test_no_two_engines_have_the_same_ending():
    endings = [ending for name in engines.NAMES for ending in engines.named(name).ENDINGS]
    assert len(endings) == len(set(endings))
    for name in engines.NAMES:
        assert set(engines.named(name).PROGRAM_ENDINGS) <= set(engines.named(name).ENDINGS)


def lower(program: Program, path: Path) -> None:
    program.save(path)
    path.with_suffix(".extra").touch()


@pytest.fixture
def fourth(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that runs saved Programs."""
    module = ModuleType("zeropoint.engines.fourth")
    found = {
        "PACKAGES": (),
        "ENDINGS": (".fourth",),
        "PROGRAM_ENDINGS": (),
        "layer_seconds": None,
        "import_packages": lambda: None,
        "target_for": lambda processor: Target(name="fourth", weighted=frozenset(), inputs=frozenset()),
        "unsupported": lambda method: None,
        "artefact_name": lambda program: ".fourth",
        "lower": lower,
        "load": lambda path, threads, kept: load_program(path).flat,
        "files": lambda path: (path, path.with_suffix(".extra")),
        "metadata": lambda path: {},
        "settings": lambda path: {},
        "damage": lambda path: None,
        "example_inputs": lambda path, batch_size: (torch.zeros(batch_size, 1),),
        "integer_operators": lambda program, path: set(),
    }
    for name, value in found.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "zeropoint.engines.fourth", module)
    monkeypatch.setattr(engines, "NAMES", (*engines.NAMES, "fourth"))


@pytest.mark.usefixtures("fourth")
def test_a_fourth_engine_needs_no_other_place(tmp_path: Path):
    assert "fourth" in engines.installed()
    program = residual()
    written = engines.compile(program, "fourth", path=tmp_path / "model")
    assert written.artefact == tmp_path / "model.fourth"
    assert artefact.engine_of(written.artefact) == "fourth"
    opened = artefact.load(written.artefact)
    assert opened.engine == "fourth"
    assert torch.equal(opened(images()), program(images()))
    with pytest.raises(InputError, match=r"model\.fourth is an artefact of fourth; give"):
        captured(str(written.artefact), "default", None)
    written.artefact.with_suffix(".extra").unlink()
    with pytest.raises(InputError, match=r"no such file: .*model\.extra, which is part of .*model\.fourth"):
        artefact.load(written.artefact)
