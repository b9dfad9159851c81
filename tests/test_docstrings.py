"""The examples in the docstrings of the public names print what they say.

They may use ``zp``, ``torch``, a small ``model`` of images (N, 3, 8, 8) to 5 classes, two labelled
``batches`` of 8, the model's ``program``, and the ``quantized`` Program made of it.
"""

import doctest
from pathlib import Path

import pytest
import torch
from networks import randomized
from torch import nn

import zeropoint as zp

SLOW = {
    *("Benchmark", "BenchmarkPair", "ChangedSample", "Results", "benchmark", "benchmark_pair", "compare"),
    *("train_quantized", "ship", "ship_run", "tune", "verify"),
}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def names() -> dict[str, object]:
    model = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 8, 3, 8, 8, generator=generator)
    batches = [(batch, torch.arange(8) % 5) for batch in images]
    program = zp.capture(model, images[0, :1])
    quantized = zp.quantize(program, calibration=batches)
    return {"zp": zp, "torch": torch, "model": model, "batches": batches, "program": program} | {
        "quantized": quantized
    }


@pytest.mark.usefixtures("no_fresh_process")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in zp.__all__]
)
def test_the_example_of(name: str, names: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (test,) = doctest.DocTestFinder(recurse=False).find(
        getattr(zp, name), name, module=False, globs=dict(names)
    )
    assert test.examples, f"{name} has no example"
    lines: list[str] = []
    failed, _ = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=lines.append)
    assert not failed, "".join(lines)
