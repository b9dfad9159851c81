"""Modules may have any name that PyTorch allows: captured, saved and lowered all the same."""

import itertools
from collections import OrderedDict

import pytest
import torch
from networks import images
from torch import nn

import zeropoint as zp
from zeropoint import engines
from zeropoint.graph import edits as fx
from zeropoint.numerics.sqnr import sqnr_db

NAMES = ("conv-1", "class", "a b", "1x", "lin ear", "ü")


def model() -> nn.Module:
    """A convolution, batch norm, ReLU, and two linear layers, each with one of the NAMES."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 4),
        nn.Linear(4, 3),
    )
    return nn.Sequential(OrderedDict(zip(NAMES, layers, strict=True))).eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "method"),
    [
        *itertools.product(engines.NAMES, ["fp32", "static"]),
        ("onnxruntime", "dynamic"),
        ("openvino", "dynamic"),
    ],
)
def test_every_engine_takes_them(engine, method, tmp_path):
    program, x = zp.capture(model(), images(2)), images(2)
    if method != "fp32":
        program = zp.quantize(program, method, calibration=[x], target=engine)
    program.save(tmp_path / "m.pt2")
    program = zp.load(tmp_path / "m.pt2")
    found = zp.compile(program, engine, threads=1, batch_size=2)(x)
    # With VNNI OpenVINO finds ranges at run time in its own way.
    assert sqnr_db(program(x), found) > (35 if method == "dynamic" else 60)


def test_modules_keep_their_names_and_two_of_one_spelling_stay_apart():
    program = zp.capture(model(), images(2))
    assert {"conv-1", "ü"} <= set(fx.module_names(program.module))
    assert zp.Options(skip=("conv-1",)).check_patterns(fx.module_names(program.module)) is None
    twins = nn.Sequential(
        OrderedDict([("a-b", nn.Linear(3, 3)), ("a+b", nn.Linear(3, 3)), ("a_b", nn.Linear(3, 3))])
    )
    x = torch.randn(2, 3)
    torch.testing.assert_close(zp.capture(twins, x)(x), twins(x))
