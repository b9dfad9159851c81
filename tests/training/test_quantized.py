"""Quantization-aware training as a run: its folder, its starts, what it refuses, what engines make of it."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from networks import clusters
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

import zeropoint as zp
from zeropoint.cli import app
from zeropoint.errors import InputError
from zeropoint.graph.quantizers import quantizers
from zeropoint.measure.evaluate import evaluate
from zeropoint.methods.losses import _share, distillation, teaching
from zeropoint.methods.qat import _blame, _of_grid_weights
from zeropoint.passes.learnable import constant, keep_positive, learnable
from zeropoint.training.folder import Folder
from zeropoint.training.loop import train
from zeropoint.training.record import read
from zeropoint.training.task import Task


@pytest.fixture(scope="module")
def program() -> zp.Program:
    """A float network that tells the clusters apart; its second activation has values below zero."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.Hardswish(), nn.Linear(16, 8))
    train(Task(model), clusters(), None, zp.TrainingOptions(epochs=60, learning_rate=0.01))
    return zp.capture(model, clusters()[0][0])


TRAINING = zp.TrainingOptions(epochs=4, learning_rate=0.1)
FEW = zp.Options(training=TRAINING, end_bits=3).at("W3A3")


def trained(program: zp.Program, options: zp.Options = FEW, **arguments: object) -> zp.Program:
    return zp.train_quantized(program, clusters(), validation=clusters(seed=3), options=options, **arguments)


def outputs(program: zp.Program) -> Tensor:
    return program(clusters(seed=9)[0][0])


def test_the_folder_holds_what_it_says(program: zp.Program, tmp_path: Path):
    quantized = trained(program, folder=tmp_path / "run")
    folder = Folder(tmp_path / "run")
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "last.checkpoint",
        "metrics.jsonl",
        "program.pt2",
        "settings.json",
    ]
    torch.testing.assert_close(outputs(zp.load(folder.program)), outputs(quantized))
    settings = json.loads((folder.path / "settings.json").read_text())
    assert (settings["bits"], settings["epochs"], settings["target"]) == ("W3A3", 4, "openvino")
    epochs = [line["epoch"] for line in read(folder.metrics) if "validation_accuracy" in line]
    assert epochs == [1, 2, 3, 4]
    assert quantized.method == "qat"
    assert quantized.quantize_seconds > 0


def test_what_is_done_can_be_resumed_to_the_same(program: zp.Program, tmp_path: Path):
    first = trained(program, folder=tmp_path)
    oftener = dataclasses.replace(FEW, training=dataclasses.replace(TRAINING, minutes=1.0))
    for options in (FEW, oftener):
        again = trained(program, options, folder=tmp_path, resume=True)
        assert torch.equal(outputs(first), outputs(again))


def test_more_epochs_go_on_from_the_last_one(program: zp.Program, tmp_path: Path):
    trained(program, folder=tmp_path)
    longer = dataclasses.replace(FEW, training=dataclasses.replace(TRAINING, epochs=6))
    first = trained(program, longer, folder=tmp_path, resume=True)
    epochs = [line["epoch"] for line in read(tmp_path / "metrics.jsonl") if "validation_accuracy" in line]
    assert epochs == [1, 2, 3, 4, 5, 6]
    assert json.loads((tmp_path / "settings.json").read_text())["epochs"] == 6
    assert torch.equal(outputs(first), outputs(trained(program, longer, folder=tmp_path, resume=True)))
    with pytest.raises(InputError, match="epochs 6, not 4; give the same or more"):
        trained(program, folder=tmp_path, resume=True)


def test_the_stages_of_progressive_bits_keep_their_epochs(program: zp.Program, tmp_path: Path):
    options = dataclasses.replace(FEW, progressive=True)
    trained(program, options, folder=tmp_path)
    longer = dataclasses.replace(options, training=dataclasses.replace(TRAINING, epochs=6))
    with pytest.raises(InputError, match="epochs 4, not 6; give the same, or"):
        trained(program, longer, folder=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"options": FEW.at("W4A3")}, "bits W3A3, not W4A3"),
        (
            {"options": zp.Options(training=zp.TrainingOptions(epochs=3), end_bits=3).at("W3A3")},
            "epochs 4, not 3; give the same or more",
        ),
        ({"target": "torch"}, "target openvino, not torch"),
    ],
)
def test_another_training_in_the_folder_is_told(program: zp.Program, tmp_path: Path, changed, told):
    trained(program, folder=tmp_path)
    with pytest.raises(InputError, match=told):
        trained(program, folder=tmp_path, resume=True, **changed)


def test_another_network_in_the_folder_is_told(program: zp.Program, tmp_path: Path):
    trained(program, folder=tmp_path)
    torch.manual_seed(7)
    other = zp.capture(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8)), clusters()[0][0])
    with pytest.raises(InputError, match=r"a training with weights \w{12}…, not \w{12}…"):
        trained(other, folder=tmp_path, resume=True)


def test_folders_that_cannot_be_are_told(program: zp.Program, tmp_path: Path):
    with pytest.raises(InputError, match="no training to resume"):
        trained(program, folder=tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()
    trained(program, folder=tmp_path / "a")
    with pytest.raises(InputError, match="holds a training already; give --resume"):
        trained(program, folder=tmp_path / "a")
    (tmp_path / "a" / "settings.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot read .*settings\.json"):
        trained(program, folder=tmp_path / "a", resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        trained(program, folder=tmp_path / "file" / "inside")


def test_labels_are_looked_at_before_any_work(program: zp.Program, tmp_path: Path):
    wrong = [(inputs, labels + 1) for inputs, labels in clusters()]
    with pytest.raises(InputError, match="the training data has the label 8; the model has classes 0 to 7"):
        zp.train_quantized(program, wrong, options=FEW, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_all_labels_of_a_data_set_are_looked_at_before_any_work(program: zp.Program):
    """Those that torchvision's data sets have in ``targets``, whatever the first batch has."""
    inputs, labels = (torch.cat(parts) for parts in zip(*clusters(), strict=True))
    data = TensorDataset(inputs, labels)
    data.targets = [*labels.tolist()[:-1], 8]
    with pytest.raises(InputError, match="the training data has the label 8"):
        zp.train_quantized(program, DataLoader(data, 16), options=FEW)
    with pytest.raises(InputError, match=r"items, less than a batch of 1000; lower that"):
        zp.train_quantized(program, DataLoader(data, 1000), options=FEW)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x, y: (x[:, :5], y), r"the first batch of the validation data has shape \(\d+, 5\)"),
        (lambda x, y: (x, y + 8), "the validation data has the label 15; the model has classes 0 to 7"),
        (lambda x, y: x, "the validation data has no labels"),
        (lambda x, y: (x, torch.eye(8)[y]), "the validation data has labels torch.float32"),
    ],
)
def test_validation_data_is_looked_at_before_any_work(program: zp.Program, tmp_path: Path, change, told: str):
    wrong = [change(*batch) for batch in clusters()]
    with pytest.raises(InputError, match=told):
        zp.train_quantized(program, clusters(), validation=wrong, options=FEW, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_quantized_program_is_a_start_too(program: zp.Program, tmp_path: Path):
    """What is trained then has its bits and target, and only the teacher given."""
    static = zp.quantize(program, calibration=clusters(), target="torch", options=FEW)
    alone = trained(static, zp.Options(training=TRAINING))
    taught = trained(static, zp.Options(training=TRAINING), teacher=program)
    for one in (alone, taught):
        assert (one.weight_bits, one.activation_bits, one.target, one.method) == (3, 3, "torch", "qat")
    assert not torch.equal(outputs(alone), outputs(taught))
    assert evaluate(taught, clusters(seed=5)).accuracy.top1 > 0.9


def test_progressive_bits_end_at_those_asked_for(program: zp.Program, tmp_path: Path):
    options = dataclasses.replace(FEW, progressive=True)
    quantized = trained(program, options, folder=tmp_path)
    assert (quantized.weight_bits, quantized.activation_bits) == (3, 3)
    bits = {q.scheme.bits for q in quantizers(quantized.module)}
    assert max(bits) <= 8
    assert 3 in bits
    epochs = {name: read(tmp_path / name / "metrics.jsonl") for name in ("first", ".")}
    assert [max(line["epoch"] for line in lines) for lines in epochs.values()] == [2, 2]
    again = trained(program, options, folder=tmp_path, resume=True)
    assert torch.equal(outputs(quantized), outputs(again))


def test_more_bits_hand_on_what_they_were_trained_to_be(program: zp.Program):
    """Not what lies below their grid, which rounding hides and training lets drift."""
    options = zp.Options(weight_bits=2, rounding="nearest")  # which leaves the weights where they were
    quantized = zp.quantize(program, "weight-only", calibration=clusters(), options=options)
    assert (outputs(quantized) - outputs(program)).abs().max() > 0.1
    handed = dataclasses.replace(quantized, module=_of_grid_weights(quantized))
    assert not list(quantizers(handed.module))
    torch.testing.assert_close(outputs(handed), outputs(quantized))


def test_distillation_by_hand(program: zp.Program):
    """Hinton et al. 2015: a share of T² · KL(softened teacher, softened student), the rest cross-entropy."""
    inputs, labels = clusters()[0]
    logits = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    teacher = (program(inputs).double() / 2).softmax(1)
    student = (logits.double() / 2).softmax(1)
    divergence = (teacher * (teacher / student).log()).sum(1).mean()
    expected = 0.7 * F.cross_entropy(logits.double(), labels) + 0.3 * 4 * divergence
    found = distillation(teaching(program), 0.3)((inputs,), logits, labels)
    assert math.isclose(float(found), float(expected), rel_tol=1e-5)


def test_the_teacher_is_heard_as_much_as_it_is_right(program: zp.Program):
    """A quarter of the labels of the first 1,024 rows are wrong by the teacher, which knows the clusters."""
    data = clusters(count=40)
    turned = [(x, (y + 1) % 8 if number % 4 == 0 else y) for number, (x, y) in enumerate(data)]
    assert _share(program, FEW, turned) == 0.75
    assert _share(program, dataclasses.replace(FEW, distillation=0.5), turned) == 0.5


@pytest.mark.slow
def test_compiled_steps_train_the_same(program: zp.Program):
    """Full batches by the compiler, the short one at the end of an epoch not: all by the same arithmetic."""
    data = [*clusters(count=4), tuple(part[:5] for part in clusters()[0])]
    results, graphs = [], []
    for compile in (False, True):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()  # which other tests of this process have counted in
        training = dataclasses.replace(TRAINING, epochs=2, compile=compile)
        options = dataclasses.replace(FEW, training=training, distillation=0.5)
        results.append(zp.train_quantized(program, data, calibration=clusters(), options=options))
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    torch.testing.assert_close(*map(outputs, results), rtol=1e-3, atol=1e-3)
    assert graphs == [0, 2]  # the network's and the loss's, each of one piece and for one size


def test_offsets_are_learned_where_values_go_below_zero(program: zp.Program):
    static = zp.quantize(program, calibration=clusters(), options=FEW)
    activations = [q for q in quantizers(static.module) if not q.is_weight]
    affine = {q.node.name for q in activations if int(q.zero_point) != q.scheme.qmin}
    module, places = learnable(static, offsets=True)
    learned = {
        place.before.node.name for place in places if place.zero_point in dict(module.named_parameters())
    }
    assert learned == affine
    assert affine  # the input and what the hard-swish gives
    moved = next(place.zero_point for place in places if place.before.node.name in affine)
    with torch.no_grad():
        module.get_parameter(moved).add_(1.4)
    before = module(clusters()[0][0])
    constant(module, places)
    torch.testing.assert_close(module(clusters()[0][0]), before)


def test_a_step_size_that_went_bad_is_named(program: zp.Program):
    static = zp.quantize(program, calibration=clusters(), options=FEW)
    module, places = learnable(static)
    assert _blame(module, places) == ""
    fine = [
        dataclasses.replace(p, before=dataclasses.replace(p.before, scale=p.before.scale * 1e-6))
        for p in places
    ]
    assert _blame(module, fine) == ""  # a small step size is none that went bad
    parameters = dict(module.named_parameters())
    place = next(place for place in places if place.before.is_weight)
    with torch.no_grad():
        parameters[place.scale][1] = -0.5
    assert "the step size of the weights of" in _blame(module, places)
    keep_positive(module, places)
    assert parameters[place.scale].min() > 0
    with torch.no_grad():
        parameters[place.scale].fill_(math.nan)
    assert "to nan" in _blame(module, places)


def test_a_rate_beyond_all_measure_is_blamed(program: zp.Program, tmp_path: Path):
    broken = [*clusters()[:2], (torch.full((32, 6), math.inf), clusters()[0][1])]
    with pytest.raises(InputError, match=r"the loss is nan at step 3, batch 3 of epoch 1"):
        zp.train_quantized(program, broken, calibration=clusters(), options=FEW, folder=tmp_path)


def test_pact_trains_steps_of_activations_by_what_is_clipped(program: zp.Program):
    one, other = (trained(program, dataclasses.replace(FEW, step_sizes=kind)) for kind in ("lsq", "pact"))
    assert not torch.equal(outputs(one), outputs(other))
    static = zp.quantize(program, calibration=clusters(), options=FEW)
    _, places = learnable(static, step_sizes="pact")
    kinds = {place.before.is_weight: place.node.args[-1] for place in places}
    assert kinds == {True: "lsq", False: "pact"}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_predict_what_was_trained(program: zp.Program, engine: str):
    quantized = trained(program, zp.Options(training=TRAINING).at("W4A4"), target=engine)
    runner = zp.compile(quantized, engine, batch_size=32)
    batches = clusters(count=16, seed=11)
    same = [runner(x).argmax(1) == quantized(x).argmax(1) for x, _ in batches]
    assert torch.cat(same).float().mean() >= 0.995


@pytest.mark.slow
def test_the_command(tmp_path: Path):
    command = ["qat", "digits/mobilenet", "--data", "digits", "--bits", "W4A8", "--epochs", "1"]
    command += ["--limit-batches", "4", "--out", str(tmp_path / "run"), "--rounding", "nearest"]
    runner = CliRunner()
    done = runner.invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "qat W4A8 for openvino" in done.output
    assert zp.load(tmp_path / "run" / "program.pt2").weight_bits == 4
    again = runner.invoke(app, command)
    assert isinstance(again.exception, InputError)
    assert "--resume" in str(again.exception)
    assert runner.invoke(app, [*command, "--resume"]).exit_code == 0
