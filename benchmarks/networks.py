"""The benchmark's networks by name: the float model with random weights, and its inputs by seed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zeropoint import models
from zeropoint.errors import InputError, closest
from zeropoint.models.vision import torchvision

CNNS = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "shufflenet_v2_x0_5",
    "efficientnet_v2_s",
)
TRANSFORMERS = ("vit_b_16", "bert_base")
NAMES = CNNS + TRANSFORMERS
SIDE = 224  # pixels
TOKENS = 128
EVALUATION = 1_000_000  # first seed of the inputs that are not used for calibration


def check(names: Iterable[str]) -> None:
    """Raises InputError for a name that is none of these networks."""
    for name in names:
        if name not in NAMES:
            raise InputError(f"unknown network {name}; {closest(name, NAMES)}")


def load(name: str) -> nn.Module:
    """The float network in eval mode, with the same weights at every call."""
    if name == "bert_base":
        return _bert()
    network = models.resolve(f"torchvision/{name}", "none")
    if name == "vit_b_16":  # torchvision initializes its last layer to zero: every output would be zero
        torch.manual_seed(0)
        nn.init.normal_(network.heads.head.weight, std=0.02)
    if name == "efficientnet_v2_s":
        _halve_residuals(network)
    return network


@torch.no_grad()
def _halve_residuals(network: nn.Module) -> None:
    """Halves the output of every residual block, as if trained from a small scale (Goyal et al. 2017, 5.1).

    With plain random weights EfficientNet is chaotic: in float32, another order of additions leaves 7 dB.
    """
    for block in network.modules():
        if getattr(block, "use_res_connect", False):
            block.block[-1][1].weight *= 0.5  # the batch norm after the last convolution


class _LastHiddenState(nn.Module):
    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.bert(input_ids=input_ids).last_hidden_state


def _bert() -> nn.Module:
    torchvision()  # transformers imports it; this way it works with any build of torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return _LastHiddenState(BertModel(BertConfig(), add_pooling_layer=False)).eval()


def sample(name: str, seed: int) -> Tensor:
    """One input with its batch dimension: token ids (1, 128), or an image (1, 3, 224, 224) of unit variance.

    Like natural images, it has an amplitude spectrum of 1/frequency, and similar channels.
    """
    generator = torch.Generator().manual_seed(seed)
    if name == "bert_base":
        return torch.randint(1000, 30000, (1, TOKENS), generator=generator)
    noise = torch.randn(4, SIDE, SIDE, generator=generator)
    frequency = torch.hypot(torch.fft.fftfreq(SIDE).unsqueeze(1), torch.fft.rfftfreq(SIDE))
    frequency[0, 0] = 1 / SIDE
    shared, *own = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(SIDE, SIDE))
    image = torch.stack([shared + 0.5 * channel for channel in own]).unsqueeze(0)
    return (image - image.mean()) / image.std()


def batch(name: str, first_seed: int, size: int) -> Tensor:
    """The samples of ``size`` consecutive seeds as one tensor."""
    return torch.cat([sample(name, first_seed + index) for index in range(size)])


@dataclass(frozen=True)
class Calibration:
    """Re-iterable batches of calibration inputs, made one at a time."""

    name: str
    images: int
    batch_size: int = 1

    def __iter__(self) -> Iterator[Tensor]:
        for first in range(0, self.images, self.batch_size):
            yield batch(self.name, first, min(self.batch_size, self.images - first))
