"""What outputs and targets say of one sample."""

import math

import pytest
import torch

from zeropoint.tasks import find
from zeropoint.tasks.answers import Answer, read

LOGITS = torch.tensor([[0.0, math.log(3)], [2.0, math.nan]])


def answers(task, outputs, targets, number=0, names=()):
    reader = find(task).reader
    return [read(reader.answer, outputs, number, names), read(reader.label, targets, number, names)]


def words(*args, **kwargs):
    return [one.words for one in answers(*args, **kwargs)]


def test_a_class_has_its_probability():
    assert words("classification", LOGITS, torch.tensor([0, 1])) == ["class 1 (75.0%)", "class 0"]
    assert words("classification", LOGITS, torch.tensor([0, 1]), 1) == ["NaN or infinity", "class 1"]
    shares = torch.tensor([[0.4, 0.6]])
    names = ("cat", "dog")
    assert words("classification", {"logits": shares}, torch.tensor([[0]]), names=names) == [
        "class 1, dog (60.0%)",
        "class 0, cat",
    ]
    assert words("classification", shares, torch.tensor([0]), names=("cat",))[0] == "class 1 (60.0%)"


def test_labels_are_listed():
    outputs, targets = torch.tensor([[1.0, -1, 2], [-1, -1, -1]]), torch.tensor([[0.0, 1, 0], [0, 0, 0]])
    assert words("multi-label", outputs, targets, names=("a", "b", "c")) == ["labels a, c", "labels b"]
    assert words("multi-label", outputs, targets, 1) == ["no label", "no label"]


def test_pixels_are_shares_of_classes():
    scores = torch.nn.functional.one_hot(torch.tensor([[[0, 2], [2, 2]]]), 3).movedim(-1, 1).float()
    target = torch.tensor([[[1, 255], [1, 1]]])
    output, label = answers("segmentation", scores, target, names=("sky", "car", "road"))
    assert output.words == "class 2, road: 75.0%; class 0, sky: 25.0%"
    assert label.words == "class 1, car: 75.0%; class 255: 25.0%"
    assert output.mask.tolist() == [[0, 2], [2, 2]]


def test_speech_is_text_or_tokens():
    scores = torch.eye(3)[[1, 1, 0, 1, 2]][None]
    assert words("speech-recognition", scores, torch.tensor([[1, 2, 0, -1]])) == [
        "tokens 1 1 2",
        "tokens 1 2",
    ]
    assert words("speech-recognition", ["hello"], ["hallo"]) == ["hello", "hallo"]


def test_numbers_of_tokens_are_not_shown():
    assert words("token-classification", torch.zeros(1, 5, 3), torch.zeros(1, 5, dtype=torch.int64)) == [
        "",
        "",
    ]


def test_values():
    assert words("regression", torch.tensor([[1.23456, 2]]), torch.tensor([[1.0, 2]])) == ["1.235, 2", "1, 2"]
    assert words("regression", torch.arange(10.0)[None], torch.tensor([math.inf])) == [
        "0, 1, 2, 3, …",
        "NaN or infinity",
    ]
    image = torch.rand(1, 3, 4, 4)
    assert answers("image-regression", image, None)[0].signal is not None


@pytest.mark.parametrize("task", ["classification", "segmentation", "detection", "regression", "multi-label"])
@pytest.mark.parametrize("value", [None, 3, torch.tensor(1.0), [], {}, {"a": 1}, torch.zeros(0, 3), ["x"]])
def test_what_the_task_does_not_have_is_nothing(task, value):
    assert answers(task, value, value) == [Answer(), Answer()]
