"""A Program, its runner and its file are called as the model is, and give what the model gives."""

from collections import UserDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import Residual, images, randomized
from torch import Tensor, nn

import zeropoint as zp
from zeropoint.engines import artefact
from zeropoint.graph.signature import call_of


@dataclass
class Outputs:
    logits: Tensor
    states: Any = None


class Tagger(nn.Module):
    """Features (N, 4) of which a mask (N, 1) keeps some, and the states (L, N, 3) of a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.cell = nn.Linear(4, 6), nn.GRU(6, 3, 2)

    def forward(self, x, mask=None, *, scale: float = 1.0, states=(), return_states: bool = True):
        y = self.inner(x) * scale
        if mask is not None:
            y = y * mask
        y, hidden = self.cell(y[None], states[0] if states else None)
        return Outputs(y[0], {"hidden": hidden, "none": None} if return_states else None)


def arguments(size: int, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(size, 1, generator=generator) > 0.3).float()
    states = (torch.randn(2, size, 3, generator=generator),)
    return {"x": torch.randn(size, 4, generator=generator), "mask": mask, "states": states}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return randomized(Tagger())


@pytest.fixture(scope="module")
def program(network: nn.Module) -> zp.Program:
    return zp.capture(network, arguments(3), origin="tagger")


def close(found: Any, expected: Outputs, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found.logits, expected.logits, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        found.states["hidden"], expected.states["hidden"], rtol=tolerance, atol=tolerance
    )
    assert found.states["none"] is None


def test_names_and_axes(program: zp.Program):
    assert program.signature.input_names == ("x", "mask", "states_0")
    assert program.signature.output_names == ("logits", "states_hidden")
    assert program.batch.inputs == (0, 0, 1)
    assert program.batch.outputs == (0, 1)
    assert not program.dynamic_batch  # rows of the states are layers


def test_called_as_the_model_is(network: nn.Module, program: zp.Program):
    given = arguments(5, seed=1)
    found = program(given["x"], given["mask"], states=given["states"], scale=1.0, return_states=True)
    assert isinstance(found, Outputs)
    close(found, network(**given))


def test_a_file_gives_the_same_structure(network: nn.Module, program: zp.Program, tmp_path: Path):
    program.save(tmp_path / "tagger.pt2")
    given = arguments(4, seed=2)
    close(zp.load(tmp_path / "tagger.pt2")(**given), network(**given))
    plain = torch.export.load(tmp_path / "tagger.pt2").module()(**given)
    assert plain["states"]["none"] is None
    torch.testing.assert_close(plain["logits"], network(**given).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_on_an_engine_and_from_its_artefact(
    network: nn.Module, program: zp.Program, engine: str, tmp_path: Path
):
    runner = zp.compile(program, engine, threads=1, path=tmp_path / "tagger")
    given = arguments(5, seed=3)
    assert isinstance(runner(**given), Outputs)
    close(runner(**given), network(**given), 1e-4)
    opened = artefact.load(runner.artefact, 1)
    as_arrays = {
        "x": given["x"].numpy(),
        "mask": given["mask"].double(),
        "states": [given["states"][0].numpy()],
    }
    close(opened(**as_arrays), network(**given), 1e-4)


def test_inputs_and_outputs_of_artefacts_are_named(program: zp.Program, tmp_path: Path):
    import onnx
    import openvino

    path = zp.compile(program, "onnxruntime", threads=1, path=tmp_path / "a").artefact
    graph = onnx.load(path).graph
    assert [one.name for one in graph.input] == ["x", "mask", "states_0"]
    assert [one.name for one in graph.output] == ["logits", "states_hidden"]
    path = zp.compile(program, "openvino", threads=1, path=tmp_path / "a").artefact
    model = openvino.Core().read_model(path)
    assert [one.any_name for one in model.inputs] == ["x", "mask", "states_0"]
    assert all(
        name in one.names for one, name in zip(model.outputs, ("logits", "states_hidden"), strict=True)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: given.pop("mask"), "mask is missing"),
        (lambda given: given.update(states=(given["states"][0], given["mask"])), r"without states.1"),
        (lambda given: given.update(scale=3.0), "captured with scale = 1.0; capture it again with 3.0"),
        (lambda given: given.update(weights=given["mask"]), "unexpected keyword argument 'weights'"),
        (lambda given: given.update(x=given["x"][:, :2]), r"input 1 has shape \(3, 2\)"),
    ],
)
def test_another_call_is_refused(program: zp.Program, change, message: str):
    given = arguments(3)
    change(given)
    with pytest.raises(zp.InputError, match=message):
        program(**given)


def test_one_tensor_for_one_tensor():
    model = randomized(Residual())
    program = zp.capture(model, images(2))
    torch.testing.assert_close(program(images(3)), model(images(3)), rtol=1e-5, atol=1e-5)
    assert program.signature.input_names == ("x",)
    assert program.signature.output_names == ("output",)


def batches(kind: str) -> list[Any]:
    made = [arguments(4, seed) for seed in range(3)]
    if kind == "dicts":
        return made
    if kind == "dicts with labels":
        return [one | {"labels": torch.zeros(4), "idx": 7} for one in made]
    if kind == "mappings":
        return [UserDict(one) for one in made]
    if kind == "pairs":
        return [(one, torch.zeros(4)) for one in made]
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["dicts", "dicts with labels", "mappings", "pairs"])
def test_loaders_of(program: zp.Program, kind: str):
    for batch, expected in zip(batches(kind), batches("dicts"), strict=True):
        inputs, targets = program.signature.batch(batch)
        assert [one.shape for one in inputs] == [(4, 4), (4, 1), (2, 4, 3)]
        assert torch.equal(inputs[0], expected["x"])
        assert (targets is None) == (kind in ("dicts", "mappings"))
    quantized = zp.quantize(program, calibration=batches(kind), target="onnxruntime")
    given = arguments(4, 9)
    noise = quantized(**given).logits - program(**given).logits
    assert 0 < noise.square().mean() < 0.01 * program(**given).logits.square().mean()


def test_batches_of_one_input_and_any_targets():
    model = zp.capture(randomized(Residual()), images(2)).signature
    x, boxes = images(2), [{"boxes": torch.zeros(1, 4)}] * 2
    for batch in (x, (x, boxes), [x, boxes], ((x,), boxes), {"x": x, "targets": boxes}):
        inputs, targets = model.batch(batch)
        assert torch.equal(inputs[0], x)
        assert targets is (None if batch is x else boxes)
    with pytest.raises(zp.InputError, match=r"x is missing|captured without"):
        model.batch({"image": x})


def test_the_call_of_a_batch():
    assert call_of(Tagger(), arguments(2) | {"labels": 1, "idx": 3})[1].keys() == {"x", "mask", "states"}
    args, kwargs = call_of(nn.Linear(2, 2), (torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)))
    assert len(args) == 1
    assert not kwargs


def test_a_dict_as_the_one_argument():
    class OfDict(nn.Module):
        def forward(self, batch):
            return {"sum": batch["a"] + batch["b"][0]}

    example = {"a": torch.rand(2, 3), "b": [torch.rand(2, 3)]}
    program = zp.capture(OfDict(), example)
    assert program.signature.input_names == ("batch_a", "batch_b_0")
    torch.testing.assert_close(program(example)["sum"], example["a"] + example["b"][0])
    assert len(program.signature.batch(example).inputs) == 2


def test_variable_arguments():
    class Sum(nn.Module):
        def forward(self, first, *others, **named):
            return first + sum(others) + named["last"]

    parts = [torch.rand(2, 3) for _ in range(4)]
    program = zp.capture(Sum(), parts[:3], {"last": parts[3]})
    assert program.signature.input_names == ("first", "others_0", "others_1", "last")
    torch.testing.assert_close(program(*parts[:3], last=parts[3]), sum(parts))


def test_a_text_among_the_outputs_is_kept_by_the_file(tmp_path: Path):
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, object]:
            return {"double": x * 2, "unit": "mm"}

    x = torch.rand(2, 3)
    zp.capture(Named(), x).save(tmp_path / "named.pt2")
    loaded = zp.load(tmp_path / "named.pt2")(x)
    assert loaded["unit"] == "mm"
    assert torch.equal(loaded["double"], x * 2)
    plainly = torch.export.load(tmp_path / "named.pt2").module()(x)
    assert torch.equal(plainly["double"], x * 2)
    assert plainly["unit"] is None
