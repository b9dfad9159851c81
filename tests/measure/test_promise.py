"""The warning where float32 is far below what its weights are known for."""

import math
import warnings

import pytest

from zeropoint import models
from zeropoint.errors import InputWarning
from zeropoint.measure.promise import warn_of_shortfall
from zeropoint.models.source import Promise

TOP1 = Promise("top-1", 0.7, "ImageNet-1K")


def told(promise, values, images):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_shortfall(promise, values, images)
    assert all(issubclass(one.category, InputWarning) for one in caught)
    return [str(one.message) for one in caught]


def test_a_shortfall_is_told_with_both_numbers_and_the_cause():
    assert told(TOP1, {"top-1": 0.123, "top-5": 0.9}, 1000) == [
        "float32 has top-1 12.3% on 1,000 images, and its weights promise 70.0% on ImageNet-1K; the commonest"
        " cause is another preprocessing of the images, or another order of the classes"
    ]


@pytest.mark.parametrize("images", [10, 100, 10_000])
def test_ten_points_and_three_deviations_of_a_sample_are_no_shortfall(images):
    least = 0.7 - 0.1 - 3 * math.sqrt(0.7 * 0.3 / images)
    assert not told(TOP1, {"top-1": least + 1e-6}, images)
    assert told(TOP1, {"top-1": least - 1e-6}, images)


@pytest.mark.parametrize(
    ("promise", "values", "images"),
    [
        (None, {"top-1": 0.0}, 1000),
        (TOP1, {"F1": 0.0, "top-1": 0.0}, 1000),  # not the first metric
        (TOP1, {"top-1": None}, 1000),
        (TOP1, {}, 1000),
        (TOP1, {"top-1": 0.0}, 0),
    ],
)
def test_nothing_is_told_of_what_is_not_promised(promise, values, images):
    assert not told(promise, values, images)


@pytest.mark.parametrize(
    ("spec", "weights", "expected"),
    [
        ("torchvision/resnet18", "default", Promise("top-1", 0.69758, "ImageNet-1K")),
        ("torchvision/resnet50", "IMAGENET1K_V1", Promise("top-1", 0.7613, "ImageNet-1K")),
        ("torchvision/resnet18", "none", None),
        ("torchvision/resnet18", "mine.safetensors", None),
        ("torchvision/raft_small", "default", None),  # errors of pixels
        ("timm/resnet18", "default", None),
        ("digits/resnet", "default", None),
    ],
)
def test_weights_of_torchvision_have_a_promise(spec, weights, expected):
    found = models.promise(spec, weights)
    assert (found is None) == (expected is None)
    if expected is not None:
        assert (found.metric, found.data) == (expected.metric, expected.data)
        assert found.value == pytest.approx(expected.value)


def test_detection_and_segmentation_promise_metrics_of_their_tasks():
    assert models.promise("torchvision/ssdlite320_mobilenet_v3_large", "default").metric == "mAP"
    assert models.promise("torchvision/fcn_resnet50", "default").metric == "mIoU"
