"""Arguments of the wrong kind to the API, each told in one line."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zeropoint as zp
from zeropoint.errors import InputError
from zeropoint.targets.recipe import Row

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
    "no threads": (
        lambda program: zp.compile(program, "onnxruntime", threads=0),
        "threads is 0; give an int of 1 or more, or None",
    ),
    "threads below none": (
        lambda program: zp.fastest_engine(program, threads=-2),
        "threads is -2; give an int of 1 or more, or None",
    ),
    "half a thread": (
        lambda program: zp.compare(program, zp.Loaders("x", [X], [X]), out="run", threads=0.5),
        "threads is 0.5; give an int of 1 or more$",
    ),
    "threads of a diagnosis": (
        lambda program: zp.diagnose(program, [X], threads=True),
        "threads is True; give an int of 1 or more$",
    ),
    "threads of parts": (
        lambda _: zp.quantize_parts(MODEL, [X], threads="2"),
        "threads is '2'; give an int of 1 or more, or None",
    ),
    "threads of saved parts": (
        lambda _: zp.load_parts(MODEL, "saved", threads=0),
        "threads is 0; give an int of 1 or more, or None",
    ),
    "no batch to compile for": (
        lambda program: zp.compile(program, "onnxruntime", batch_size=0),
        "batch_size is 0; give an int of 1 or more$",
    ),
    "no batch to choose by": (
        lambda program: zp.fastest_target(program, calibration=[X], batch_size=-1),
        "batch_size is -1; give an int of 1 or more$",
    ),
    "fewer shapes than none": (
        lambda program: zp.compile(program, "onnxruntime", shapes=-1),
        "shapes is -1; give an int of 0 or more$",
    ),
    "seconds that are no number": (
        lambda program: zp.fastest_engine(program, seconds=math.nan),
        "seconds is nan; give a number of 0 or more$",
    ),
    "no items": (
        lambda program: zp.diagnose(program, [X], items=0),
        "items is 0; give an int of 1 or more$",
    ),
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


OPTIONS: dict[str, tuple[list[Any], str]] = {
    "weight_bits": ([9, 1, "8", 8.0, True, None], "an int from 2 to 8$"),
    "activation_bits": ([17, 1, "8", None], "an int from 2 to 16$"),
    "end_bits": ([9, "8"], "an int from 2 to 8, or None$"),
    "eight_bit_share": ([1.5, -0.1, "0.5", None, math.nan], "a number from 0 to 1$"),
    "weight_symmetric": ([1, "yes"], "True or False, or None$"),
    "activation_symmetric": ([0], "True or False, or None$"),
    "weight_granularity": ([3], "one of the texts per-tensor, per-channel, per-group$"),
    "group_size": ([1, "32"], "an int of 2 or more, or None$"),
    "ranges": ([None, 3, ["mse"]], "one of the texts minmax, "),
    "weight_ranges": ([3, ["mse"]], "one of the texts minmax, mse$"),
    "rounding": ([None, 3], "one of the texts gptq, adaround, nearest$"),
    "recipe": (["rows.json", 3, ({"layers": "*"},), [{"layers": "*"}]], "a tuple of Rows$"),
    "skip": ([3, (3,), None], "a tuple of texts$"),
    "no_fuse": ([3], "a tuple of texts$"),
    "activation16": ([(None,)], "a tuple of texts$"),
    "processor": ([3, None], "a text$"),
    "calibration_batches": ([0, -1, 2.5], "an int of 1 or more, or None$"),
    "seed": ([-1, 0.5, "0", None], "an int of 0 or more$"),
    "training": ([3, {"epochs": 2}, None], "a TrainingOptions$"),
    "step_sizes": ([3], "one of the texts lsq, pact$"),
    "distillation": ([1.5, -0.1, "0.5", math.nan], "a number from 0 to 1, or None$"),
    "progressive": ([1, None], "True or False$"),
}
TRAINING: dict[str, tuple[list[Any], str]] = {
    "epochs": ([0, "3", 1.5, True], "an int of 1 or more$"),
    "learning_rate": ([0, -0.1, math.nan, math.inf, "0.1"], "a number above 0, or None$"),
    "optimizer": ([3, None], "one of the texts sgd, adamw$"),
    "weight_decay": ([-1, math.inf, None], "a number of 0 or more$"),
    "warmup": ([1.5, -1, "0"], "a number from 0 to 1$"),
    "accumulate": ([0, 1.5], "an int of 1 or more$"),
    "average": ([1, -0.5], "a number from 0 to below 1$"),
    "precision": ([32, None], "one of the texts auto, 32, bf16$"),
    "compile": ([1, "yes"], "True or False$"),
    "minutes": ([0, -1, "10"], "a number above 0$"),
    "seed": ([-1, 0.5], "an int of 0 or more$"),
}
ROW: dict[str, tuple[list[Any], str]] = {
    "layers": ([3, None], "a text$"),
    "weight_bits": ([9, "8"], "an int from 2 to 8, or None$"),
    "activation_bits": ([17, 8.5], "an int from 2 to 16, or None$"),
    "output_bits": ([1, True], "an int from 2 to 16, or None$"),
    "weight_symmetric": ([1], "True or False, or None$"),
    "activation_symmetric": (["no"], "True or False, or None$"),
    "weight_granularity": ([3], "one of the texts per-tensor, per-channel, per-group$"),
    "group_size": ([1, "32"], "an int of 2 or more, or None$"),
    "float": ([1], "True or False, or None$"),
    "float_inputs": ([1], "True or False, or None$"),
}
TABLES = ((zp.Options, OPTIONS), (zp.TrainingOptions, TRAINING), (Row, ROW))
FIELDS = [(owner, name) for owner, table in TABLES for name in table]


@pytest.mark.parametrize(("owner", "field"), FIELDS)
def test_wrong_fields_of_options_are_told(owner: type, field: str):
    values, accepted = dict(TABLES)[owner][field]
    for value in values:
        told = re.escape(f"{field} is {value!r}; give ") + accepted
        with pytest.raises(InputError, match=told):
            owner(**{field: value})


def test_numbers_that_will_do_are_taken():
    options = zp.TrainingOptions(learning_rate=np.float64(0.1), warmup=0, average=0)
    assert (options.learning_rate, options.warmup) == (0.1, 0)
    assert zp.Options(skip=["head"], distillation=1).distillation == 1


def test_every_field_of_options_is_tried():
    for owner, table in TABLES:
        assert [field.name for field in dataclasses.fields(owner)] == list(table)


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
