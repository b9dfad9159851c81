"""Metrics of the user's own: functions, torchmetrics, and what cannot be one."""

import pytest
import torch

from zeropoint import tasks
from zeropoint.errors import InputError
from zeropoint.tasks.metric import Score, library
from zeropoint.tasks.own import metric

torchmetrics = library()
generator = torch.Generator().manual_seed(0)
OUTPUTS, TARGETS = torch.randn(10, 3, generator=generator), torch.randn(10, 3, generator=generator)


def mean_error(outputs, targets):
    return (outputs - targets).abs().mean()


def errors(outputs, targets):
    return (outputs - targets).abs().mean(1)


def measured(given, size=4, **options):
    score = Score(metric(given, **options))
    for i in range(0, 10, size):
        score.add(OUTPUTS[i : i + size], TARGETS[i : i + size])
    return score.value()


@pytest.mark.parametrize(
    "given",
    [mean_error, errors, torchmetrics.MeanAbsoluteError, torchmetrics.MeanAbsoluteError()],
    ids=["of a batch", "of samples", "class", "instance"],
)
def test_batches_are_weighted_by_their_samples(given):
    assert measured(given) == pytest.approx(float(mean_error(OUTPUTS, TARGETS)))


def test_an_instance_is_not_changed():
    given = torchmetrics.MeanAbsoluteError()
    measured(given)
    assert given.update_count == 0


def test_direction_is_the_objects_own_or_what_is_said():
    assert not metric(torchmetrics.MeanAbsoluteError, higher_is_better=True).measure.higher_is_better
    assert metric(mean_error).measure.higher_is_better
    assert not metric(mean_error, higher_is_better=False).measure.higher_is_better


def test_a_function_of_the_model_is_told_by_its_first_parameter():
    def on_all(model, loader):
        return 1.0

    assert metric(on_all).whole is on_all
    assert metric(mean_error).whole is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0.5", "the metric broken gives a str, and must give one number"),
        (None, "gives nothing"),
        (torch.zeros(2, 2), r"gives float32 \(2, 2\)"),
        (True, "gives a bool"),
    ],
)
def test_what_is_no_number_is_named(value, message):
    def broken(outputs, targets):
        return value

    with pytest.raises(InputError, match=message):
        measured(broken)


def test_a_function_that_fails_is_named_with_its_error():
    def broken(outputs, targets):
        return outputs.boxes

    with pytest.raises(InputError, match="broken fails on batch 1: AttributeError"):
        measured(broken)


def test_tasks_with_metrics_of_their_own_and_of_the_user():
    made = tasks.made("classification", ["top-5", mean_error], higher_is_better=False)
    assert [(one.name, one.measure.higher_is_better) for one in made.metrics] == [
        ("top-5", True),
        ("mean_error", False),
    ]
    assert tasks.made(None, mean_error).name == "none"
    assert tasks.made(None, ["top-5"]).name == "classification"
    assert tasks.made() is None
    assert tasks.made(None, (), postprocess=len).postprocess is len


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("segmentatoin",), "unknown task segmentatoin; did you mean segmentation?"),
        (("segmentation", "top-5"), "the task segmentation has no metric top-5; give --task classification"),
        (("segmentation", "miou"), "has no metric miou; did you mean mIoU"),
        (("regression", [mean_error, mean_error]), "two metrics have the name mean_error"),
        (("regression", 5), "a metric is a int"),
    ],
)
def test_unknown_names(arguments, message):
    with pytest.raises(InputError, match=message):
        tasks.made(*arguments)


def test_the_task_is_found_where_the_targets_tell():
    assert tasks.fitting(torch.zeros(2, 3), None).name == "none"
    assert tasks.fitting(torch.zeros(2, 3), torch.tensor([1, 2])).name == "classification"
    for targets, likely in (
        (torch.zeros(2), "regression or multi-label"),
        (torch.zeros(2, 3, 8, 8), "image-regression or regression"),
        (torch.zeros(2, 8, 8).long(), "segmentation"),
        (torch.zeros(2, 8).long(), "token-classification or masked"),
        ([{}], "detection"),
    ):
        with pytest.raises(InputError, match=f"no class numbers; say what they mean by --task {likely}"):
            tasks.fitting(torch.zeros(2, 3), targets)
