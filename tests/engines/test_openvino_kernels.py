"""Each convolution uses the kernel that was fastest, and computes the same with it."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from networks import images, randomized
from torch import nn

import zeropoint as zp
from zeropoint.engines import openvino_kernels
from zeropoint.engines.openvino_kernels import BEFORE, TRIED, Timed, choose_kernels
from zeropoint.measure import machine

LAYERS = "first", "second"
FILE = """<?xml version="1.0"?>
<net><layers>
<layer id="0" name="first" type="Convolution"><data strides="1, 1" /><input /></layer>
<layer id="1" name="second" type="Convolution"><data /><rt_info><attribute name="a" /></rt_info></layer>
<layer id="2" name="third" type="ReLU"><data /></layer>
</layers></net>"""


def orders(path: Path) -> dict[str, list[str]]:
    """Of each layer with an order of kernels, the order; the attribute is one of its layer's rt_info."""
    found = {}
    for layer in ElementTree.parse(path).iter("layer"):
        for attribute in layer.findall("rt_info/attribute[@name='primitives_priority']"):
            found[layer.attrib["name"]] = attribute.attrib["value"].split(",")
    return found


def choose(path: Path, seconds: dict[str, list[float]], rest: float = 0.0) -> list[Path]:
    """Chooses among candidates of which layers take so long, the default first; gives what was compiled."""
    path.write_text(FILE)
    compiled: list[Path] = []

    def compile(file: Path) -> Timed:
        assert file.is_file()
        number = len(compiled)
        compiled.append(file)
        times = {name: columns[number] for name, columns in seconds.items()}
        return Timed({name: f"kernel {number}" for name in seconds}, lambda: times | {"third": rest})

    choose_kernels(path, compile)
    return compiled


def test_the_fastest_for_each(tmp_path, monkeypatch):
    monkeypatch.setattr(openvino_kernels, "SECONDS", 0.0)
    path = tmp_path / "model.xml"
    compiled = choose(path, {"first": [3.0, 2.0, 2.5], "second": [3.0, 2.0, 1.0]})
    assert len(compiled) == 1 + len(TRIED)
    assert orders(path) == {
        name: [f"cpu:{kernel}" for kernel in (*BEFORE, *kernels)]
        for name, kernels in zip(LAYERS, TRIED, strict=True)
    }
    assert list(tmp_path.iterdir()) == [path]
    assert ElementTree.parse(path).find(".//layer[@name='second']/rt_info/attribute[@name='a']") is not None


@pytest.mark.parametrize(
    ("seconds", "rest"),
    [
        ({"first": [1.0, 0.98, 1.2], "second": [1.0, 1.0, 1.0]}, 0.0),  # nothing beyond noise
        ({"first": [1.0, 0.1, 0.1]}, 99.0),  # nothing that counts
        ({}, 1.0),  # no integers
    ],
)
def test_a_file_is_left_as_it_is(tmp_path, monkeypatch, seconds, rest):
    monkeypatch.setattr(openvino_kernels, "SECONDS", 0.0)
    path = tmp_path / "model.xml"
    choose(path, seconds, rest)
    assert path.read_text() == FILE


def test_the_same_integers_from_other_kernels(tmp_path, monkeypatch):
    """Every convolution on its second kernel, whatever it takes."""
    pytest.importorskip("openvino")
    if "avx512_vnni" not in machine.describe()["instruction_sets"]:
        pytest.skip("this processor has no second kernel for int8 convolutions")
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(),
        nn.Conv2d(16, 8, 1),
    )  # fmt: skip
    x = images()
    quantized = zp.quantize(zp.capture(randomized(model), x), calibration=[x], target="openvino")
    plain = zp.compile(quantized, "openvino", path=tmp_path / "plain")
    interleave = openvino_kernels._interleave
    monkeypatch.setattr(openvino_kernels, "GAIN", float("inf"))
    monkeypatch.setattr(
        openvino_kernels,
        "_interleave",
        lambda *given: {name: [2.0, 1.0, 3.0] for name in interleave(*given)},
    )
    chosen = zp.compile(quantized, "openvino", path=tmp_path / "chosen")
    assert len(orders(chosen.artefact)) == 3
    assert torch.equal(chosen(x)[0], plain(x)[0])
