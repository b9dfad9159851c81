import math

import numpy as np
import pytest
import torch

from zeropoint.measure.fidelity import FidelityMeter


def fidelity(reference, outputs):
    meter = FidelityMeter()
    meter.add(reference, outputs)
    return meter.result()


def test_hand_computed_sqnr_and_agreement():
    reference = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    output = torch.tensor([[3.0, 4.5], [0.5, 5.0]])
    assert fidelity([reference], [output]).sqnr_db == pytest.approx(20.0)  # signal 50, noise 0.5
    assert fidelity([reference], [output]).agreement == 1.0
    assert fidelity([reference], [reference.flip(1)]).agreement == 0.0


def test_streams_over_batches_and_outputs_as_numpy_does_at_once():
    rng = np.random.default_rng(0)
    reference = [rng.normal(size=(30, 5)), rng.normal(size=(30, 2, 3))]
    outputs = [tensor + 0.3 * rng.normal(size=tensor.shape) for tensor in reference]
    meter = FidelityMeter()
    for i in range(0, 30, 7):
        batches = [
            [torch.tensor(x[i : i + 7], dtype=torch.float32) for x in side] for side in (reference, outputs)
        ]
        meter.add(*batches)
    pairs = zip(reference, outputs, strict=True)
    expected = [10 * np.log10((x**2).sum() / ((x - y) ** 2).sum()) for x, y in pairs]
    assert meter.result().outputs_db == pytest.approx(expected, abs=1e-5)
    assert meter.result().sqnr_db == pytest.approx(min(expected), abs=1e-5)
    assert meter.result().agreement == np.mean(reference[0].argmax(1) == outputs[0].argmax(1))


def test_accumulates_in_float64():
    # In float32 the noise of 1 would vanish beside the signal's square of 1e16.
    reference, output = torch.tensor([[1e8, 1.0]]), torch.tensor([[1e8, 2.0]])
    assert fidelity([reference], [output]).sqnr_db == pytest.approx(160.0)


def test_identical_outputs_are_infinitely_close():
    outputs = [torch.zeros(2, 3)]
    assert fidelity(outputs, outputs).sqnr_db == math.inf
    assert fidelity(outputs, [torch.ones(2, 3)]).sqnr_db == -math.inf


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_broken_outputs_are_not_hidden(value):
    reference = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    broken = torch.tensor([[value, 0.0], [0.0, 1.0]])
    for pair in ((reference, broken), (broken, reference), (broken, broken)):
        result = fidelity([pair[0]], [pair[1]])
        assert result.agreement == 0.5
        if pair[0] is pair[1] and not math.isnan(value):  # as masked logits are
            assert result.sqnr_db == math.inf
        else:
            assert math.isnan(result.sqnr_db)


def test_an_output_that_is_lost_is_not_hidden_by_a_larger_one():
    large, small = torch.full((2, 3), 1e3), torch.ones(2, 3)
    result = fidelity([large, small], [large + 1, small * 0])
    assert result.outputs_db == pytest.approx((60.0, 0.0))
    assert result.sqnr_db == pytest.approx(0.0)


def test_class_numbers_and_outputs_of_zeros_do_not_count_beside_others():
    values, numbers = torch.ones(2, 3), torch.tensor([1, 2])
    result = fidelity([values, numbers, values * 0], [values * 1.1, numbers + 5, values * 0.1])
    assert result.outputs_db == (pytest.approx(20.0, abs=1e-4), None, -math.inf)
    assert result.sqnr_db == pytest.approx(20.0, abs=1e-4)
    assert fidelity([numbers], [numbers]).sqnr_db == math.inf


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3, 8, 8)])
def test_no_agreement_without_classes(shape):
    assert fidelity([torch.ones(shape)], [torch.ones(shape)]).agreement is None


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="cannot be compared"):
        fidelity([torch.ones(4, 3)], [torch.ones(1, 3)])
    with pytest.raises(ValueError, match="cannot be compared"):
        fidelity([torch.ones(4, 3)], [torch.ones(4, 3), torch.ones(4, 3)])
