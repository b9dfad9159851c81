"""Parts of models that cannot be captured whole."""

import copy

import pytest
import torch
from networks import images, options, randomized, sqnr
from torch import nn

import zeropoint as zp
from zeropoint.errors import InputError, InputWarning
from zeropoint.parts import survey


class Routed(nn.Module):
    """A backbone, and one of two heads that its values choose: (N, 3, 8, 8) to a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(8, 5), nn.Linear(8, 5)])

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.backbone(x).mean((2, 3))
        head = self.heads[int(features.sum() > features.numel())]
        return {"logits": head(features), "first": features.argmax(1)}


class Around(nn.Module):
    """Calls a part as ``function`` says, after a decision on values that no exporter takes."""

    def __init__(self, part: nn.Module, function=lambda part, x: part(x)) -> None:
        super().__init__()
        self.part, self.function = part, function

    def forward(self, x: torch.Tensor):
        return self.function(self.part, x * 2 if float(x.abs().max()) > 1e6 else x)


class Scaled(nn.Module):
    """A linear layer with a constant and a keyword: to a tuple of a tensor, None and a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 6)

    def forward(self, x: torch.Tensor, factor: float = 1.0, *, mask: torch.Tensor | None = None):
        y = self.linear(x) * factor
        return y if mask is None else y * mask, None, {"sum": y.sum(1)}


def batches() -> list[torch.Tensor]:
    return [images(4, seed) for seed in range(3)]


def linear(rows: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed))


def parts_of(model: nn.Module, data, **more) -> zp.Parts:
    return zp.quantize_parts(randomized(model), data, **{"options": options(), "threads": 1, **more})


def test_a_model_that_decides_by_its_values_runs_with_its_backbone_on_the_engine():
    model = randomized(Routed())
    data = [batch * (1 + 3 * number) for number, batch in enumerate(batches())]
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        wanted = [model(batch) for batch in data]
    model.train()
    parts = zp.quantize_parts(model, data, options=options())
    assert model.training
    assert [(part.name, part.calls) for part in parts.parts] == [("backbone", 3)]
    assert [one.name for one in parts.refused] == [""]
    assert parts.share == parts.parts[0].share
    macs = 36 * 27 * 8 + 16 * 72 * 8  # of one image, without the head's 40
    assert parts.share == pytest.approx(macs / (macs + 40))
    for batch, expected in zip(data, wanted, strict=True):
        found = parts.model(batch)
        assert found.keys() == expected.keys()
        assert 25 < sqnr(expected["logits"], found["logits"]) < 80
    logits, first = parts.outputs
    assert (logits.name, logits.equal, first.name, first.sqnr_db) == ("logits", None, "first", None)
    together = [torch.cat([one["logits"] for one in each]) for each in (wanted, map(parts.model, data))]
    assert logits.sqnr_db == pytest.approx(sqnr(*together), abs=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    with torch.no_grad():
        assert all(
            torch.equal(model(x)["logits"], one["logits"]) for x, one in zip(data, wanted, strict=True)
        )


def test_a_part_keeps_its_class_attributes_and_signature():
    model = Around(Scaled(), lambda part, x: part(x, 2.0, mask=x[:, :6] > 0))
    parts = parts_of(model, [linear(), linear(seed=1)], method="fp32", engine="onnxruntime")
    assert [part.name for part in parts.parts] == ["part"]
    assert type(parts.model.part) is Scaled
    assert parts.model.part.linear.weight is model.part.linear.weight
    x = linear(7, 2)
    with torch.no_grad():
        wanted, found = model(x), parts.model(x)
    assert type(found) is tuple
    assert found[1] is None
    torch.testing.assert_close(found[0], wanted[0])
    torch.testing.assert_close(found[2]["sum"], wanted[2]["sum"])


def test_a_call_that_calibration_did_not_have_runs_in_float_and_warns_once():
    model = Around(Scaled(), lambda part, x: part(x, 2.0))
    parts = parts_of(model, [linear()])
    part, x = parts.model.part, linear(seed=2)
    with pytest.warns(InputWarning, match="part runs in float"), torch.no_grad():
        assert torch.equal(part(x, 3.0)[0], model.part(x, 3.0)[0])
    with torch.no_grad():  # warnings are errors here
        assert torch.equal(part(x, 3.0)[0], model.part(x, 3.0)[0])
        assert not torch.equal(part(x, 2.0)[0], model.part(x, 2.0)[0])


def test_a_head_that_is_called_on_several_sizes_takes_all_of_them():
    head = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    model = Around(head, lambda head, x: [head(x), head(x[:, :, ::2, 1:]), head(x[:, :, :1, ::4])])
    parts = parts_of(model, batches())
    (part,) = parts.parts
    assert (part.name, part.calls) == ("part", 9)
    x = torch.randn(2, 3, 11, 9, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        for wanted, found in zip(model(x), parts.model(x), strict=True):
            assert sqnr(wanted, found) > 25


class Writes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, memory: list[torch.Tensor]) -> torch.Tensor:
        memory.append(self.linear(x))
        return memory[-1]


class Counts(nn.Module):
    """Its output depends on how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.linear(x) * self.calls


@pytest.mark.parametrize(
    ("part", "call", "reason"),
    [
        (Writes(), lambda part, x: part(x, []), "it writes into its arguments"),
        (Counts(), lambda part, x: part(x), "it keeps a state"),
        (
            Scaled(),
            lambda part, x: part(x, float(len(x)))[0],
            "it is called in 2 ways: argument 0.1 is 4.0 and 3.0",
        ),
    ],
    ids=["writes", "state", "ways"],
)
def test_what_cannot_be_a_part_is_refused_and_the_layer_in_it_taken(part, call, reason):
    model = Around(part, call)
    parts = parts_of(model, [linear(4), linear(3, 1)], method="fp32", engine="onnxruntime")
    assert [one.name for one in parts.parts] == ["part.linear"]
    assert [one.name for one in parts.refused] == ["", "part"]
    assert reason in parts.refused[1].reason
    for seed in range(2):
        with torch.no_grad():
            torch.testing.assert_close(
                parts.model(linear(seed=seed)).shape, (4, parts.model.part.linear.out_features)
            )


def test_globs_choose_the_parts_and_options_name_modules_of_the_whole():
    model = Routed()
    parts = parts_of(model, batches(), parts=["heads.*", "backbone.2"], options=options(skip=("backbone.2",)))
    assert [part.name for part in parts.parts] == ["heads.1"]
    reasons = {one.name: one.reason for one in parts.refused}
    assert reasons == {"backbone.2": "it is skipped", "heads.0": "the calibration data never calls it"}
    skipped = parts_of(model, batches(), parts="backbone", options=options(skip=("backbone.0",)))
    assert skipped.parts[0].program.skip == ("0",)


def test_the_calls_of_a_part_are_recorded_again_where_they_are_too_many(monkeypatch):
    model = randomized(Routed())
    kept = zp.quantize_parts(model, batches(), parts="backbone", options=options())
    monkeypatch.setattr(survey, "KEPT", 1)
    again = zp.quantize_parts(model, batches(), parts="backbone", options=options())
    with torch.no_grad():
        assert torch.equal(kept.model(images())["logits"], again.model(images())["logits"])


@pytest.mark.parametrize("batch", [
    (images(), torch.zeros(4, dtype=torch.int64)),
    {"x": images(), "labels": torch.zeros(4)},
    [images()],
    (images(), None),
], ids=["labels", "dict", "list", "none"])  # fmt: skip
def test_batches_are_read_as_loaders_yield_them(batch):
    parts = parts_of(Routed(), [batch], method="fp32", parts="backbone", engine="onnxruntime")
    assert parts.parts[0].calls == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"parts": "bakbone"}, "no module of the model matches 'bakbone'; did you mean backbone"),
        ({"method": "qat"}, "method 'qat' trains a whole model"),
        ({"engine": "openvin"}, "unknown engine"),
        ({"calibration": []}, "the calibration data is empty"),
        ({"calibration": [torch.randn(2, 5)]}, "the model fails on a batch of the calibration data"),
        ({"parts": "heads.*", "options": options(skip=("heads",))}, "no part of the model can be quantized"),
    ],
)
def test_bad_input_is_one_line(given, message):
    given = {"calibration": batches(), **given}
    with pytest.raises(InputError, match=message) as error:
        zp.quantize_parts(Routed(), **given)
    assert "\n" not in str(error.value)


def test_parts_are_saved_and_put_into_the_model_again(tmp_path):
    model = randomized(Routed())
    parts = zp.quantize_parts(model, batches(), options=options(), threads=1)
    parts.save(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["0-backbone.pt2", "parts.json"]
    loaded = zp.load_parts(model, tmp_path / "saved", threads=1)
    assert loaded.outputs == parts.outputs
    assert loaded.refused == parts.refused
    assert (loaded.parts[0].name, loaded.parts[0].sqnr_db) == ("backbone", parts.parts[0].sqnr_db)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(images())["logits"], parts.model(images())["logits"])
    with pytest.raises(InputError, match="is not empty"):
        parts.save(tmp_path / "saved")
    with pytest.raises(InputError, match="the model has no module 'backbone'"):
        zp.load_parts(nn.Linear(2, 2), tmp_path / "saved")
    with pytest.raises(InputError, match=r"parts\.json"):
        zp.load_parts(model, tmp_path)
