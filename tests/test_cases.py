"""Small models that once failed, each part of each output close to the float network's on every engine."""

import functools
import importlib.util
from pathlib import Path

import pytest
import torch

import zeropoint as zp
from zeropoint.models.vision import torchvision
from zeropoint.numerics.sqnr import sqnr_db

FILE = Path(__file__).parents[2] / "shared" / "cases" / "cases.py"
if not FILE.is_file():
    pytest.skip(f"{FILE.name} with the models is not on this machine", allow_module_level=True)
spec = importlib.util.spec_from_file_location("cases", FILE)
assert spec is not None and spec.loader is not None  # noqa: PT018
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)


@functools.lru_cache(maxsize=1)
def captured(name: str):
    """The Program of a model, as close to it as can be; batches, the parts of outputs, and those expected."""
    if name in ("decoder_of_equal_sizes", "encoder_for_another_engine"):
        pytest.importorskip("transformers")
    torchvision()  # which declares the operators that its wheel lacks beside a CPU-only torch
    torch.manual_seed(0)
    model, inputs, parts = cases.CASES[name]()
    batches = [inputs() for _ in range(8)]
    program = zp.capture(model, batches[0])
    with torch.no_grad():
        expected = parts(call(model, batches[0]))
    for part, found in parts(call(program, batches[0])).items():
        assert sqnr_db(expected[part], found) > 90, part
    return program, batches, parts, expected


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", cases.CASES)
def test_every_part_of_every_output(name: str, engine: str):
    program, batches, parts, expected = captured(name)
    quantized = zp.quantize(program, calibration=batches, target=engine)
    runner = zp.compile(quantized, engine, threads=1, batch_size=2)
    for run in (quantized, runner):
        for part, found in parts(call(run, batches[0])).items():
            assert sqnr_db(expected[part], found) >= 25, part


def call(run, batch):
    """What a model gives for a batch of arguments, by position or by name."""
    return run(**batch) if isinstance(batch, dict) else run(*batch)
