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
    signal = sum((x**2).sum() for x in reference)
    noise = sum(((x - y) ** 2).sum() for x, y in zip(reference, outputs, strict=True))
    assert meter.result().sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=1e-5)
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
        assert math.isnan(result.sqnr_db)
        assert result.agreement == 0.5


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3, 8, 8)])
def test_no_agreement_without_classes(shape):
    assert fidelity([torch.ones(shape)], [torch.ones(shape)]).agreement is None


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="cannot be compared"):
        fidelity([torch.ones(4, 3)], [torch.ones(1, 3)])
    with pytest.raises(ValueError, match="cannot be compared"):
        fidelity([torch.ones(4, 3)], [torch.ones(4, 3), torch.ones(4, 3)])
