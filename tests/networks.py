"""Small networks, targets and data that several tests share."""

import copy
import functools
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zeropoint.graph.capture import capture
from zeropoint.graph.program import Program
from zeropoint.methods.bf16 import BF16
from zeropoint.methods.dynamic import DYNAMIC
from zeropoint.methods.method import Job, Pass, run
from zeropoint.methods.qat import QAT
from zeropoint.methods.static import NEAREST, STATIC
from zeropoint.methods.weight_only import WEIGHT_ONLY
from zeropoint.targets.options import Options
from zeropoint.targets.processor import native
from zeropoint.targets.target import Target

exact = pytest.mark.skipif(
    native().saturates, reason="this processor has no VNNI: sums of two products of bytes saturate"
)
INPUTS = frozenset({"add", "cat", "avg_pool", "mean"})
# An engine that adds a shortcut inside the convolution, and one that rounds the convolution's result first.
ADDS_INSIDE = Target("inside", frozenset({"conv", "conv1d", "conv_transpose", "linear"}), INPUTS)
ROUNDS_FIRST = Target(
    "first",
    frozenset({"conv", "conv1d", "linear"}),
    INPUTS,
    outputs=frozenset({"conv", "conv1d"}),
    fused=frozenset({"relu"}),
    adds_before_rounding=False,
)


class Residual(nn.Module):
    """Convolutions with batch norm around a shortcut, pooling and a linear layer; (N, 3, 8, 8) to (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.inner(x))
        return self.head(self.pool(x).flatten(1))


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with seeded weights and batch norm statistics, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.running_mean is not None:
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.1)
    return model.eval()


def images(batch: int = 4, seed: int = 0) -> torch.Tensor:
    """Standard normal images (batch, 3, 8, 8)."""
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@functools.cache
def _captured() -> Program:
    return capture(randomized(Residual()), images(2))


def residual() -> Program:
    """The captured Residual network: a copy, which a test may change."""
    return copy.deepcopy(_captured())


def options(**chosen: object) -> Options:
    """Options with ranges by minmax and rounding to nearest, whose numbers are easy to work out."""
    return Options(**{"ranges": "minmax", "rounding": "nearest", **chosen})  # type: ignore[arg-type]


def sqnr(reference: torch.Tensor, other: torch.Tensor) -> float:
    """Signal to quantization noise in dB."""
    return 10 * torch.log10((reference**2).sum() / ((other - reference) ** 2).sum()).item()


class Function(nn.Module):
    """A model of one tensor: ``function(parts, x)``."""

    def __init__(self, function, *parts):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x):
        return self.function(self.parts, x)


class Pooled(nn.Module):
    """Convolutions, a channel shuffle and adaptive pooling, for images of any height and width; to (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.inner = nn.Conv2d(8, 8, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.inner(torch.channel_shuffle(self.grouped(x), 2)))
        return self.head(self.pool(x).flatten(1))


class Attention(nn.Module):
    """One encoder layer over tokens and a mask, of any length up to 32; to (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, 16)
        self.positions = nn.Parameter(torch.zeros(32, 16))
        self.query, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        query = self.query(x).unflatten(2, (2, 8)).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(query, query, query, mask[:, None, None, :])
        x = x + mixed.transpose(1, 2).flatten(2)
        return self.head((x * mask[:, :, None]).mean(1))


class Branching(nn.Module):
    """What it computes hangs on the second size of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[1] == 6 else x


def clusters(count: int = 4, size: int = 32, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Batches of points around eight close centres in six dimensions, labelled with their centre."""
    centres = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(seed)
    labels = [torch.randint(0, 8, (size,), generator=generator) for _ in range(count)]
    return [(centres[part] + 0.15 * torch.randn(size, 6, generator=generator), part) for part in labels]


def job(program: Program, target: Target, calibration: Iterable[object], options: Options) -> Job:
    """What passes are given."""
    return Job(program, target, options, calibration)  # type: ignore[arg-type]


def passed(passes: tuple[Pass, ...], program: Program, *arguments: Any) -> Program:
    """The Program after the passes of a method, given target, calibration data and options."""
    return run(passes, program, job(program, *arguments))


static, weight_only = partial(passed, STATIC), partial(passed, WEIGHT_ONLY)
round_to_nearest = partial(passed, NEAREST)


def dynamic(program: Program, target: Target, options: Options) -> Program:
    """The Program after dynamic quantization."""
    return passed(DYNAMIC, program, target, (), options)


def bf16(program: Program, options: Options | None = None) -> Program:
    """The Program in bfloat16."""
    return passed(BF16, program, ADDS_INSIDE, (), options or Options())


def qat(
    program: Program, target: Target, calibration: Any, options: Options, train: Any, *rest: Any
) -> Program:
    """The Program after quantization-aware training; the rest: validation data, and a checkpoint's path."""
    return run(QAT, program, Job(program, target, options, calibration, train, *rest))
