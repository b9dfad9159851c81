"""A small network with one of everything that engines treat differently, and some odd ones."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from zeropoint.graph.program import flat_tensors

Run = Callable[..., object]


class Mixed(nn.Module):
    """Residual, depthwise, squeeze-excitation, concatenation and linear parts; (N, 3, 16, 16) to (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.pool = nn.MaxPool2d(2)
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6())
        self.pointwise = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Hardswish())
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.branch = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.pool(torch.relu(x + self.inner(x)))
        x = self.pointwise(self.depthwise(x))
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head(torch.cat([x, self.branch(x)], 1).mean((2, 3)))


class TwoInputs(nn.Module):
    """Two inputs, used in the other order than they are given; (N, 6) and (N, 4) to (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        y = self.second(y)
        return self.head(torch.relu(y - self.first(x)))


class ManyOutputs(nn.Module):
    """A dict of a tensor and a tuple of tensors: (N, 5), (N, 3) and (N, 8), of (N, 3, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.aside = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        x = torch.relu(self.conv(x)).mean((2, 3))
        return {"logits": self.head(x), "more": (self.aside(x), x)}


class Recurrent(nn.Module):
    """A recurrent layer ``kind`` of eight units and a linear one; (N, 5, 6) to (N, 5)."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.recurrent, self.head = kind(6, 8, batch_first=True), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


class Transformer(nn.Module):
    """A transformer layer and a linear one; (N, 5, 8) to (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


def batches(*shape: int, count: int = 3, size: int = 8) -> list[Tensor]:
    """Seeded batches of standard normal values, (size, 3, 16, 16) or (size, *shape)."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, *(shape or (3, 16, 16)), generator=generator) for _ in range(count)]


def noise_db(reference: object, outputs: object) -> float:
    """Signal to quantization noise over all tensors of what two models give, in dB."""
    reference, outputs = flat_tensors(reference), flat_tensors(outputs)
    assert [tensor.shape for tensor in reference] == [tensor.shape for tensor in outputs]
    signal = sum(float((tensor.double() ** 2).sum()) for tensor in reference)
    noise = sum(
        float(((a.double() - b.double()) ** 2).sum()) for a, b in zip(reference, outputs, strict=True)
    )
    return 10 * math.log10(signal / max(noise, 1e-30))


def assert_parity(float32: Run, simulation: Run, engine: Run, inputs: list[tuple[Tensor, ...]]) -> None:
    """The engine's SQNR is at most 0.5 dB below the simulation's, and its classes are the same."""
    outputs = [
        [torch.cat(parts) for parts in zip(*(flat_tensors(run(*i)) for i in inputs), strict=True)]
        for run in (float32, simulation, engine)
    ]
    expected, simulated, computed = (tuple(output) for output in outputs)
    assert noise_db(expected, computed) >= min(noise_db(expected, simulated), 60) - 0.5
    assert (simulated[0].argmax(1) == computed[0].argmax(1)).float().mean() >= 0.995
