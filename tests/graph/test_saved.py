"""Files that earlier versions saved: they load, and compute what they did."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from zeropoint.graph import archive
from zeropoint.graph.program import load

SAVED = Path(__file__).with_name("saved")
FILES = sorted(path.stem for path in SAVED.glob("*.pt2"))


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_version_before_computes_the_same(name, tmp_path):
    outputs = np.load(SAVED / "outputs.npz")
    program, x = load(SAVED / f"{name}.pt2"), torch.from_numpy(outputs["input"])
    torch.testing.assert_close(program(x), torch.from_numpy(outputs[name]), rtol=1e-5, atol=1e-6)
    assert program.decisions == ()
    program.save(tmp_path / "again.pt2")
    again = load(tmp_path / "again.pt2")
    assert torch.equal(again(x), program(x))
    assert again.schemes == program.schemes


def test_there_are_some():
    assert FILES == ["affine7", "dynamic", "fp32", "static-w4a8"]


@pytest.mark.parametrize("name", ["fp32", "static-w8a8"])
def test_a_file_of_version_2_computes_the_same(name):
    """The first one with digests."""
    path = SAVED / "version2" / f"{name}.pt2"
    outputs = np.load(path.with_name("outputs.npz"))
    assert json.loads(archive.members(path)["extra/zeropoint.json"])["version"] == 2
    found = load(path)(torch.from_numpy(outputs["input"]))
    torch.testing.assert_close(found, torch.from_numpy(outputs[name]), rtol=1e-5, atol=1e-6)
