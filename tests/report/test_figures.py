import pytest

from zeropoint.report.figures import decibels, figures, percent, ratio, samples


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00012, "0.000"),
        (0.0421, "0.042"),
        (0.421, "0.421"),
        (4.756, "4.76"),
        (28.14, "28.1"),
        (178.4, "178"),
        (12345.6, "12346"),
        (-0.5, "-0.500"),
    ],
)
def test_three_figures(value, text):
    assert figures(value) == text


def test_other_figures():
    assert ratio(0.987) == "0.99"
    assert percent(0.98614) == "98.61"
    assert decibels(28.94) == "28.9 dB"
    assert decibels(None) == "∞ dB"


@pytest.mark.parametrize(
    ("number", "data", "task", "shown"),
    [
        (600, "digits", "classification", "600 images"),
        (1, "imagefolder:val", "none", "1 image"),
        (13, "model.py:make_loaders", "classification", "13 samples"),
        (32, "random", "none", "32 samples"),
        (1, "texts.py:load", "text-classification", "1 sample"),
        (2, "mine.py:load", "detection", "2 images"),
    ],
)
def test_samples_are_images_where_they_are_known_to_be(number: int, data: str, task: str, shown: str):
    assert samples(number, data, task) == shown
