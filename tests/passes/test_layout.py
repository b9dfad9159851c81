"""Large networks are run with channels side by side, where they can be; nothing else changes by it."""

import operator

import pytest
import torch
from networks import images, options, residual
from torch import Tensor, nn

from zeropoint.data.batches import limit, split
from zeropoint.graph import macs
from zeropoint.graph.capture import capture
from zeropoint.passes import bfloat16
from zeropoint.passes.layout import laid_out
from zeropoint.quantization import quantize


@pytest.fixture
def heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(macs, "HEAVY", 0)


def is_turned(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def test_small_networks_read_batches_as_they_are():
    data = [images()]
    assert laid_out(residual(), data) is data


@pytest.mark.usefixtures("heavy")
def test_batches_are_turned_and_their_labels_kept():
    labels = torch.arange(len(images()))
    turned = laid_out(residual(), [(images(), labels), images()])
    for _ in range(2):  # it can be read again
        inputs, known = zip(*(split(batch) for batch in turned), strict=True)
        assert all(is_turned(tensor) for (tensor,) in inputs)
        assert all(torch.equal(tensor, images()) for (tensor,) in inputs)
        assert torch.equal(known[0], labels)
        assert known[1] is None
    assert operator.length_hint(turned) == 2
    assert len(list(limit(turned, 1))) == 1


@pytest.mark.usefixtures("heavy")
def test_weights_stay_as_they_lie_and_the_numbers_what_they_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bfloat16, "_doubles_in_bfloat16", lambda: False)  # it would, a heavy network's ranges
    program, x = residual(), images(seed=5)
    turned = quantize(program, calibration=[images()], options=options())
    assert not any(is_turned(weight) for weight in turned.module.parameters() if weight.dim() == 4)
    monkeypatch.setattr(macs, "HEAVY", 1 << 30)
    plain = quantize(program, calibration=[images()], options=options())
    torch.testing.assert_close(turned(x), plain(x), rtol=1e-4, atol=1e-4)


class Halves(nn.Module):
    """A view that an image has in both layouts when it is one of a batch of one, and a branch.

    The bias has every batch take the same branch, so that its items do not hang on one another.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        nn.init.constant_(self.first.bias, 10.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x.view(x.shape[0] * 2, 2, *x.shape[2:]).sum((2, 3))
        return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))


@pytest.mark.usefixtures("heavy")
@pytest.mark.parametrize(
    "program",
    [capture(Halves(), images()[:1]), capture(nn.Linear(4, 2), torch.ones(2, 4))],
    ids=["a view forbids it", "no images"],
)
def test_what_cannot_be_laid_out_is_read_as_it_is(program, monkeypatch: pytest.MonkeyPatch):
    data = [*program.example_inputs]
    assert laid_out(program, data) is data
    found = quantize(program, calibration=data, options=options())
    monkeypatch.setattr(macs, "HEAVY", 1 << 30)
    expected = quantize(program, calibration=data, options=options())
    assert torch.equal(found(*data), expected(*data))
