"""The PyTorch compiler really calls oneDNN's integer kernels: seen in the code that it writes."""

import re
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from zeropoint.capture import capture
from zeropoint.engines import compile
from zeropoint.errors import InputError
from zeropoint.methods import quantize
from zeropoint.program import Program


def kernels(program: Program, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The oneDNN kernels that the compiled code calls, which is left out of the package."""
    module = sys.modules["zeropoint.engines.torch"]
    code, repack = [], module.repack

    def spy(source: Path, *arguments: object, **options: object) -> None:
        with zipfile.ZipFile(source) as archive:
            code.extend(
                archive.read(name).decode() for name in archive.namelist() if name.endswith("wrapper.cpp")
            )
        repack(source, *arguments, **options)

    monkeypatch.setattr(module, "repack", spy)
    # Of one image and at most 16 by 16 weights, the compiler rather writes a loop of its own.
    artefact = compile(program, "torch", threads=1, batch_size=3).artefact
    with zipfile.ZipFile(artefact) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".cpp")]
    return re.findall(r"aoti_torch_cpu_+(qconv|qlinear|mkldnn)\w*\(", code[0])


@pytest.mark.slow
def test_static_calls_integer_convolutions_and_products(float32, data: list[Tensor], monkeypatch):
    program = quantize(float32, "static", calibration=data, target="torch")
    assert Counter(kernels(program, monkeypatch)) == {"qconv": 7, "qlinear": 1}


@pytest.mark.slow
def test_dynamic_calls_integer_products(monkeypatch: pytest.MonkeyPatch):
    program = quantize(capture(nn.Linear(8, 4), torch.randn(2, 8)), "dynamic", target="torch")
    assert kernels(program, monkeypatch) == ["qlinear"]


def test_float32_is_saved_as_it_is(float32: Program, data: list[Tensor]):
    artefact = compile(float32, "torch").artefact
    assert torch.equal(torch.export.load(artefact).module()(data[0]), float32(data[0])[0])


def test_threads_are_set_for_every_call(float32: Program, data: list[Tensor]):
    before = torch.get_num_threads()
    try:
        one, two = compile(float32, "torch", threads=1), compile(float32, "torch", threads=2)
        for runner in (one, two, one):
            runner(data[0])
            assert torch.get_num_threads() == runner.threads
    finally:
        torch.set_num_threads(before)


def test_compiler_that_is_not_there_is_named(float32, data: list[Tensor], monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise torch._inductor.exc.InvalidCxxCompiler

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    with pytest.raises(InputError, match="needs a C\\+\\+ compiler to quantize; install g\\+\\+"):
        compile(quantize(float32, "dynamic"), "torch")
