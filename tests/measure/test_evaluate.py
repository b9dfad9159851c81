"""The pass over the data: metrics, losses and fidelity of several runs, and what is no metric."""

import math

import pytest
import torch

from zeropoint.data.batches import FlatBatch
from zeropoint.errors import InputError
from zeropoint.measure.evaluate import Accuracy, check, evaluate, evaluate_all
from zeropoint.tasks import find

generator = torch.Generator().manual_seed(0)
INPUTS = torch.randn(40, 6, generator=generator)
WEIGHT = torch.randn(6, 4, generator=generator)
LABELS = torch.randint(4, (40,), generator=generator)


def model(inputs):
    return inputs @ WEIGHT


def rounded(inputs):
    return inputs @ (WEIGHT * 2).round() / 2


def batches(targets=LABELS, size=16):
    parts = [None] * 3 if targets is None else [targets[i : i + size] for i in range(0, 40, size)]
    return [FlatBatch((inputs,), part) for inputs, part in zip(INPUTS.split(size), parts, strict=True)]


def test_hand_computed_accuracy_and_loss():
    # softmax of (0, ln 3) is (1/4, 3/4).
    data = [
        FlatBatch((torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]]),), torch.tensor([1, 1])),
        FlatBatch((torch.tensor([[0.0, 0.0]]),), torch.tensor(0)),
    ]
    result = evaluate(lambda inputs: inputs, data).accuracy
    assert result.top1 == pytest.approx(2 / 3)  # a tie goes to the first class
    assert result.loss == pytest.approx((-math.log(3 / 4) - math.log(1 / 4) - math.log(1 / 2)) / 3)
    assert result.images == 3


def test_batches_add_up_to_the_whole():
    parts, whole = (evaluate(model, batches(size=size)).accuracy for size in (16, 40))
    assert parts.top1 == whole.top1 == float((model(INPUTS).argmax(1) == LABELS).double().mean())
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)  # kernels of other sizes add in another order
    assert whole.loss == pytest.approx(float(torch.nn.functional.cross_entropy(model(INPUTS), LABELS)))


def test_without_labels_there_is_no_accuracy_but_fidelity():
    evaluation = evaluate(rounded, batches(None), float32=model)
    assert evaluation.accuracy == Accuracy(None, None, 40)
    assert (evaluation.task, evaluation.values, evaluation.measures) == ("none", {}, ())
    same = (model(INPUTS).argmax(1) == rounded(INPUTS).argmax(1)).double().mean()
    assert evaluation.fidelity.agreement == float(same)
    assert evaluation.change.value == float(same) - 1
    assert evaluation.change.low < evaluation.change.value < evaluation.change.high
    with pytest.raises(InputError, match="the data has no targets, and top-1 needs them"):
        evaluate(model, batches(None), task="classification")


def test_nan_logits_show_in_the_loss():
    data = [FlatBatch((torch.tensor([[math.nan, 0.0]]),), torch.tensor([0]))]
    assert math.isnan(evaluate(lambda inputs: inputs, data).accuracy.loss)


def test_the_change_is_paired_with_float32_even_if_that_is_not_among_the_runs():
    found = evaluate_all({"a": rounded, "b": model}, batches(), float32=model)
    alone = evaluate(rounded, batches(), float32=model)
    assert found["a"].change == alone.change
    assert found["a"].change.value == found["a"].values["top-1"] - found["b"].values["top-1"]
    assert (found["b"].change.low, found["b"].change.high) == (0, 0)
    assert evaluate(rounded, batches()).change is None


@pytest.mark.parametrize(
    ("task", "targets", "expected"),
    [
        ("regression", model(INPUTS) + 1, {"MAE": 1.0}),
        ("multi-label", (model(INPUTS) > 0).float(), {"F1": 1.0}),
        ("embedding", LABELS, {}),
    ],
)
def test_targets_of_other_tasks(task, targets, expected):
    evaluation = evaluate(model, batches(targets), float32=model, task=task)
    assert [measure.name for measure in evaluation.measures] == list(evaluation.values)
    for name, value in expected.items():
        assert evaluation.values[name] == pytest.approx(value)
    assert evaluation.accuracy.top1 is None


def test_targets_of_any_structure_reach_the_metric():
    def right(outputs, targets):
        return (outputs.argmax(1) == torch.tensor([one["label"] for one in targets])).float()

    data = [
        FlatBatch((inputs,), [{"label": int(one)} for one in labels])
        for inputs, labels in zip(INPUTS.split(16), LABELS.split(16), strict=True)
    ]
    expected = evaluate(model, batches()).accuracy.top1
    evaluation = evaluate(rounded, data, metrics=right, float32=model)
    assert evaluate(model, data, metrics=right).values["right"] == pytest.approx(expected)
    assert evaluation.change is not None


def test_images_of_a_detector_are_counted_one_each():
    def detect(*images):
        return [{"boxes": one[0], "scores": one[0, :, 0], "labels": torch.ones(2)} for one in images]

    boxes = torch.tensor([[0.0, 0, 4, 4], [4, 4, 9, 9]])
    images = [boxes.expand(3, 2, 4)] * 5
    data = [(images, [{"boxes": boxes, "labels": torch.ones(2)}] * 5)] * 2
    assert evaluate(detect, data, task="none").accuracy.images == 10


def test_a_function_of_model_and_loader_gets_both():
    def worst(model, loader):
        return max(float((model(*batch.inputs).argmax(1) != batch.targets).sum()) for batch in loader)

    worst.higher_is_better = False
    evaluation = evaluate(model, batches(), metrics=[worst, "top-1"], task="classification")
    wrong = (model(INPUTS).argmax(1) != LABELS).split(16)
    assert evaluation.values["worst"] == max(int(one.sum()) for one in wrong)
    assert not evaluation.measures[0].higher_is_better
    assert list(evaluation.values) == ["worst", "top-1"]


def test_postprocessing_is_read_by_metrics_and_agreement_but_not_by_sqnr():
    def twice(outputs):
        return 2 * outputs

    found = evaluate(model, batches(2 * model(INPUTS)), float32=rounded, task="regression", postprocess=twice)
    assert found.values["MAE"] == 0
    assert (
        found.fidelity
        == evaluate(
            model, batches(None), float32=rounded, task="regression", metrics=[lambda o, t: 0.0]
        ).fidelity
    )

    def broken(outputs):
        return outputs.boxes

    with pytest.raises(InputError, match="the postprocessing fails: AttributeError"):
        evaluate(model, batches(), postprocess=broken)


def test_empty_data():
    with pytest.raises(InputError, match="the evaluation data is empty"):
        evaluate(model, [])


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda outputs, targets: math.nan, "of float32 is nan on the first batches"),
        (lambda outputs, targets: outputs, "and must give one number"),
        (lambda model, loader: [model, loader], "gives a list of .*, and must give one number"),
    ],
)
def test_what_fails_is_said_before_the_long_work(metric, message):
    from zeropoint.tasks import made

    with pytest.raises(InputError, match=message):
        check(model, batches(), made(None, metric), batches())


def test_labels_that_are_no_class_numbers():
    for targets, message in (
        (LABELS.float(), "the targets float32 .*, no class numbers; say what they mean by --task regression"),
        (LABELS + 1, "label 4 is out of range: the model has 4 classes"),
    ):
        with pytest.raises(InputError, match=message):
            check(model, batches(targets), None)
    assert check(model, batches(), find("classification")).task == "classification"
