import math

import pytest
import torch

from zeropoint.errors import InputError
from zeropoint.measure.accuracy import Accuracy, AccuracyMeter


def test_hand_computed_accuracy_and_loss():
    meter = AccuracyMeter()
    # softmax of (0, ln 3) is (1/4, 3/4).
    meter.add(torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]]), torch.tensor([1, 1]))
    meter.add(torch.tensor([[0.0, 0.0]]), torch.tensor(0))
    result = meter.result()
    assert result.top1 == pytest.approx(2 / 3)  # a tie goes to the first class
    assert result.loss == pytest.approx((-math.log(3 / 4) - math.log(1 / 4) - math.log(1 / 2)) / 3)
    assert result.images == 3


def test_batches_add_up_to_the_whole():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 7, generator=generator)
    labels = torch.randint(7, (50,), generator=generator, dtype=torch.uint8)
    parts, whole = AccuracyMeter(), AccuracyMeter()
    for i in range(0, 50, 8):
        parts.add(logits[i : i + 8], labels[i : i + 8])
    whole.add(logits, labels)
    assert parts.result().top1 == whole.result().top1
    assert parts.result().loss == pytest.approx(whole.result().loss, rel=1e-12)


def test_without_labels_there_is_no_accuracy():
    meter = AccuracyMeter()
    meter.add(torch.zeros(4, 3), None)
    assert meter.result() == Accuracy(None, None, 4)


def test_nan_logits_show_in_the_loss():
    meter = AccuracyMeter()
    meter.add(torch.tensor([[math.nan, 0.0]]), torch.tensor([0]))
    assert math.isnan(meter.result().loss)


@pytest.mark.parametrize("wrong", [-1, 10, 255])
def test_label_out_of_range_is_named(wrong):
    meter = AccuracyMeter()
    meter.add(torch.zeros(2, 10), torch.tensor([0, 9]))
    with pytest.raises(InputError, match=rf"label {wrong} in batch 2 .* 10 classes"):
        meter.add(torch.zeros(2, 10), torch.tensor([3, wrong]))


@pytest.mark.parametrize("shape", [(3, 10), (2, 10, 4)])
def test_labels_that_do_not_fit_the_output(shape):
    with pytest.raises(InputError, match="batch 1 has 2 labels"):
        AccuracyMeter().add(torch.zeros(shape), torch.tensor([0, 1]))
