"""What the default methods do to the weights, beyond rounding them, must not cost fidelity on any network."""

import functools

import pytest
import torch
from networks import job
from torch import nn

from zeropoint import models
from zeropoint.engines import target
from zeropoint.graph.capture import capture
from zeropoint.measure.fidelity import FidelityMeter
from zeropoint.methods import static
from zeropoint.methods.method import run
from zeropoint.passes.equalize import Equalized
from zeropoint.targets.options import Options

SIDE = 64
MOST_LOST = 0.2  # dB


def encoder():
    """Four layers of a transformer over patches, with channels that stand out as trained ones have them."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True, activation="gelu")
    network = nn.Sequential(
        nn.Conv2d(3, 64, 8, 8), nn.Flatten(2), _Swap(), nn.TransformerEncoder(layer, 4), nn.Linear(64, 10)
    )
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.data[::13] *= 15
    return network.eval()


class _Swap(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


SMALL = ("torchvision/resnet18", "torchvision/shufflenet_v2_x0_5", "timm/mobilenetv2_050", "timm/regnetx_002")
NETWORKS = {"encoder": encoder} | {name: functools.partial(models.resolve, name, "none") for name in SMALL}


def pictures(seed, count):
    """Images with the amplitude spectrum of natural ones, 1 / frequency."""
    noise = torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    frequency = torch.hypot(torch.fft.fftfreq(SIDE).unsqueeze(1), torch.fft.rfftfreq(SIDE))
    frequency[0, 0] = 1 / SIDE
    images = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(SIDE, SIDE))
    return images / images.std()


def decibels(network, program, data):
    meter = FidelityMeter()
    with torch.no_grad():
        for batch in data:
            meter.add([network(batch)], [program(batch)])
    return meter.result().sqnr_db


CASES = [*((name, "W8A8") for name in NETWORKS), ("encoder", "W4A8"), ("timm/mobilenetv2_050", "W4A8")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bits"), CASES)
def test_no_pass_costs_fidelity(name, bits, monkeypatch):
    network = NETWORKS[name]()
    calibration, unseen = pictures(0, 32).split(8), pictures(1, 16).split(8)
    program, options = capture(network, calibration[0][:2]), Options().at(bits)

    given = job(program, target("openvino"), calibration, options)

    def score(rounded):
        return decibels(network, rounded, unseen)

    rounded = run(static.NEAREST, program, given)
    fitted_db = score(static.fit.run(rounded, given))
    assert fitted_db > score(rounded) - MOST_LOST
    monkeypatch.setattr(static, "equalize", lambda program, *_, **__: Equalized(program, 1.0))
    plain = run(static.NEAREST, program, given)
    assert score(rounded) > score(plain) - MOST_LOST
    if score(plain) != score(rounded):  # else equalization was no gain, and both are one network
        assert fitted_db > score(static.fit.run(plain, given)) - MOST_LOST
