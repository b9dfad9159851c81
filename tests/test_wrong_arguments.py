"""Arguments of the wrong kind to the API, each told in one line."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeropoint as zp
from zeropoint.errors import InputError

X = torch.randn(4, 6)
MODEL = nn.Linear(6, 3)
NO_PROGRAM = r"a Linear is no Program; give zp.capture\(model, example_inputs\)"


@pytest.fixture(scope="module")
def program() -> zp.Program:
    return zp.capture(MODEL, X)


WRONG: dict[str, tuple[Callable[[zp.Program], Any], str]] = {
    "a model to quantize": (lambda _: zp.quantize(MODEL, calibration=[X]), NO_PROGRAM),
    "a model to train": (lambda _: zp.train_quantized(MODEL, [X]), NO_PROGRAM),
    "a model to compile": (lambda _: zp.compile(MODEL, "onnxruntime"), NO_PROGRAM),
    "a model to compare": (lambda _: zp.compare(MODEL, [X], out="run"), NO_PROGRAM),
    "a list to compare on": (
        lambda program: zp.compare(program, [X], out="run"),
        "the data is a list; give zp.Loaders",
    ),
    "an array": (lambda program: program(X.numpy()), "input is a ndarray; give a tensor"),
    "arrays to calibrate": (
        lambda program: zp.quantize(program, calibration=[X.numpy()]),
        "a batch does not fit the model: input is a ndarray; give a tensor",
    ),
    "float64": (
        lambda program: program(X.double()),
        r"input 1 is of torch.float64; the model takes torch.float32: use .to\(torch.float32\)",
    ),
    "meta": (lambda _: zp.capture(MODEL, X.to("meta")), "an example input is on the meta device"),
    "a text of globs": (
        lambda _: zp.Options(skip="head"),
        r"skip is the text 'head'; give a tuple of globs, as in \('head',\)",
    ),
    "a loss by name": (
        lambda program: zp.train_quantized(program, [(X, torch.arange(4) % 3)], loss="mse"),
        "the loss fails on the first batch of the training data: TypeError: 'str' object is not callable",
    ),
    "no loss of the outputs": (
        lambda program: zp.quantize(program, "qat", calibration=[X], train=[X], loss=lambda o, _: o.argmax()),
        "the loss",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments_are_told(what: str, program: zp.Program):
    call, told = WRONG[what]
    with pytest.raises(InputError, match=told):
        call(program)


def test_a_weight_that_is_no_number_is_told_by_name():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)
            self.mask = nn.Parameter(torch.tensor([0.0, 0.0, -torch.inf]), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return (self.layer(x) + self.mask).softmax(1)

    model = Masked()
    assert torch.equal(zp.capture(model, X)(X), model(X))  # a mask of infinities is as it should be
    with torch.no_grad():
        model.layer.bias[1] = torch.inf
    with pytest.raises(InputError, match=r"layer.bias of the model holds NaN or Inf"):
        zp.capture(model, X)
