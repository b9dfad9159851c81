"""Each convolution uses the kernel that was fastest, and computes the same with it."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from networks import images, randomized, sqnr
from torch import nn

import zeropoint as zp
from zeropoint.engines.openvino import kernels as openvino_kernels
from zeropoint.engines.openvino.kernels import BEFORE, TRIED, Timed, choose_kernels
from zeropoint.engines.openvino.profile import mean_since
from zeropoint.targets import machine

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


def choose(
    path: Path,
    seconds: dict[str, list[float]],
    rest: float = 0.0,
    kernels: tuple[str, ...] = ("own", "other", "third"),
) -> list[Path]:
    """Chooses among candidates of which layers take so long, the default first; gives what was compiled.

    A candidate of kernels "" cannot be compiled.
    """
    path.write_text(FILE)
    compiled: list[Path] = []

    def compile(file: Path) -> Timed:
        assert file.is_file()
        number = len(compiled)
        compiled.append(file)
        if not kernels[number]:
            raise RuntimeError("unknown kernel")
        times = {name: columns[number] for name, columns in seconds.items()}
        of_layers = dict.fromkeys(seconds, kernels[number])
        return Timed(of_layers, lambda: None, lambda: times | {"third": rest})

    choose_kernels(path, compile)
    return compiled


def order(number: int) -> list[str]:
    return [f"cpu:{kernel}" for kernel in (*BEFORE, *TRIED[number])]


def test_the_fastest_for_each(tmp_path):
    path = tmp_path / "model.xml"
    compiled = choose(path, {"first": [3.0, 2.0, 2.5], "second": [3.0, 2.0, 1.0]})
    assert len(compiled) == 1 + len(TRIED)
    assert orders(path) == {"first": order(0), "second": order(1)}
    assert list(tmp_path.iterdir()) == [path]
    assert ElementTree.parse(path).find(".//layer[@name='second']/rt_info/attribute[@name='a']") is not None


def test_a_candidate_that_is_the_same_or_none_is_left_out(tmp_path):
    path, seconds = tmp_path / "model.xml", {"first": [3.0, 2.0, 1.0]}
    choose(path, seconds, kernels=("own", "other", "own"))
    assert orders(path) == {"first": order(0)}
    choose(path, seconds, kernels=("own", "", "third"))
    assert orders(path) == {"first": order(1)}
    choose(path, seconds, kernels=("own", "own", ""))
    assert orders(path) == {}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("seconds", "rest"),
    [
        ({"first": [1.0, 0.98, 1.2], "second": [1.0, 1.0, 1.0]}, 0.0),  # nothing beyond noise
        ({"first": [4e-6, 3.5e-6, 3.5e-6]}, 0.0),  # nothing that the clock can tell
        ({"first": [1.0, 0.1, 0.1]}, 99.0),  # nothing that counts
        ({}, 1.0),  # no integers
    ],
)
def test_a_file_without_a_choice_says_nothing(tmp_path, seconds, rest):
    path = tmp_path / "model.xml"
    choose(path, seconds, rest)
    assert orders(path) == {}


def test_the_same_integers_from_other_kernels(tmp_path, monkeypatch):
    """Every convolution on its second kernel, whatever it takes."""
    pytest.importorskip("openvino")
    sets = machine.describe()["instruction_sets"]
    if "avx512_vnni" not in sets or "amx_int8" in sets:
        pytest.skip("this processor has no second kernel for int8 convolutions")
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(),
        nn.Conv2d(16, 8, 1),
    )  # fmt: skip
    x = images()
    quantized = zp.quantize(zp.capture(randomized(model), x), calibration=[x], target="openvino")
    monkeypatch.setattr(openvino_kernels, "WORTH", 2.0)
    plain = zp.compile(quantized, "openvino", path=tmp_path / "plain")
    assert orders(plain.artefact) == {}
    monkeypatch.setattr(openvino_kernels, "WORTH", -1.0)
    monkeypatch.setattr(
        openvino_kernels, "_fastest", lambda own, others: dict.fromkeys(own.kernels, next(iter(others)))
    )
    chosen = zp.compile(quantized, "openvino", path=tmp_path / "chosen")
    assert len(orders(chosen.artefact)) == 3
    assert torch.equal(chosen(x), plain(x))


def test_the_mean_of_the_latest_calls():
    """Two calls of 9 and 5 seconds, then three of 1, 2 and 3: OpenVINO says 7, and then 4."""
    assert mean_since(7.0, 2, 0.0, 0) == 7.0
    assert mean_since(4.0, 5, 7.0, 2) == 2.0


class Flow(nn.Module):
    """Convolutions of the image, and of a first flow, zero: where each pixel is, less where it was."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(3, 8, 3, padding=1)
        self.flow = nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        )
        self.both = nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What a third one makes of both, (N, 3, H, W) to (N, 8, H, W)."""
        places = [torch.arange(size) for size in x.shape[-2:]]
        grid = torch.stack(torch.meshgrid(*places, indexing="ij")).float()[None]
        before, after = (grid.repeat(x.shape[0], 1, 1, 1) for _ in range(2))
        return self.both(torch.cat([self.image(x).relu(), self.flow(after - before)], 1))


@pytest.mark.filterwarnings("ignore::zeropoint.errors.InputWarning")
def test_a_convolution_of_constants_takes_no_time() -> None:
    torch.manual_seed(0)
    network = Flow().eval()
    batches = [images(4, seed) for seed in range(8)]
    program = zp.quantize(zp.capture(network, batches[0]), "static", calibration=batches, target="openvino")
    runner = zp.compile(program, "openvino", threads=1)
    assert sqnr(network(batches[0]).detach(), torch.as_tensor(runner(batches[0]))) > 30
