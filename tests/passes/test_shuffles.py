"""Channel shuffles folded into weights: the same outputs, and no shuffle left."""

import copy
import operator

import pytest
import torch
from networks import randomized
from torch import Tensor, nn

from zeropoint.graph.capture import capture
from zeropoint.graph.operators import aten
from zeropoint.graph.program import Program
from zeropoint.passes.fold import fold_batch_norms
from zeropoint.passes.shuffles import fold_shuffles

SHUFFLES = {aten.transpose.int, aten.channel_shuffle.default}


def shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels, *places = x.shape
    return x.view(batch, groups, channels // groups, *places).transpose(1, 2).contiguous().view(x.shape)


def branch(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False), nn.BatchNorm2d(channels),
        nn.Conv2d(channels, channels, 1), nn.ReLU(),
    )  # fmt: skip


class Stage(nn.Module):
    """A stage of ShuffleNetV2: each block leaves half of the channels, and then shuffles."""

    def __init__(self, channels: int, blocks: int, how: str = "views", head: nn.Module | None = None) -> None:
        super().__init__()
        self.left, self.right = branch(channels), branch(channels)
        self.branches = nn.ModuleList(branch(channels) for _ in range(blocks))
        self.how = how
        # What reads the last shuffle: a depthwise convolution, an activation and a pool, then a convolution.
        self.head = head or nn.Sequential(
            nn.Conv2d(2 * channels, 2 * channels, 3, groups=2 * channels), nn.Hardswish(), nn.MaxPool2d(2),
            nn.Conv2d(2 * channels, 5, 1),
        )  # fmt: skip

    def mixed(self, x: Tensor) -> Tensor:
        if self.how == "views":
            return shuffle(x, 2)
        if self.how == "unflatten":
            return x.unflatten(1, (2, -1)).transpose(2, 1).flatten(1, 2)
        return nn.functional.channel_shuffle(x, 2) if self.how == "operator" else shuffle(x, x.shape[1] // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mixed(torch.cat([self.left(x), self.right(x)], 1))
        for part in self.branches:
            kept, worked = x.chunk(2, dim=1)
            x = self.mixed(torch.cat((kept, part(worked)), dim=1))
        return self.head(x)


def program(model: nn.Module, channels: int) -> Program:
    inputs = torch.randn(2, channels, 10, 10, generator=torch.Generator().manual_seed(0))
    return fold_batch_norms(capture(randomized(model), inputs))


def targets(of: Program) -> list[object]:
    return [node.target for node in of.module.graph.nodes]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "channels", "blocks"),
    [
        ("views", 8, 3),
        ("unflatten", 6, 2),
        ("operator", 6, 2),
        ("other groups", 8, 3),
        ("other groups", 8, 0),
        ("views", 10, 5),
    ],
)
def test_the_same_without_shuffles(how: str, channels: int, blocks: int):
    model = Stage(channels, blocks, how)
    before = program(model, channels)
    after = fold_shuffles(before)
    assert not SHUFFLES & {*targets(after)}
    assert targets(after).count(operator.getitem) >= 2 * blocks
    inputs = torch.randn(3, channels, 10, 10, generator=torch.Generator().manual_seed(1))
    expected = copy.deepcopy(model).double()(inputs.double())
    assert expected.std() > 0.01
    torch.testing.assert_close(after(inputs).double(), expected, rtol=1e-4, atol=1e-5)
    for node in after.module.graph.nodes:  # placement reads shapes there, and they are the true ones
        if node.op == "call_function" and isinstance(node.meta.get("val"), Tensor):
            assert node.meta["val"].dim() in (3, 4)


def test_the_given_program_stays_as_it_is():
    before = program(Stage(8, 2), 8)
    weights = {name: value.clone() for name, value in before.module.state_dict().items()}
    names = [node.name for node in before.module.graph.nodes]
    fold_shuffles(before)
    assert [node.name for node in before.module.graph.nodes] == names
    for name, value in before.module.state_dict().items():
        assert torch.equal(value, weights[name])


class Flat(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels * 100, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


class Twice(nn.Module):
    """One convolution that reads the shuffle and, later, something else."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x))


@pytest.mark.parametrize(
    "head",
    [nn.Identity(), Flat(8), Twice(8), nn.Conv2d(8, 8, 1, groups=2), nn.AdaptiveAvgPool2d(1), nn.Softmax(1)],
    ids=["output", "flatten", "shared weight", "grouped", "pooled output", "softmax"],
)
def test_what_reads_channels_in_their_order_keeps_it(head: nn.Module):
    before = program(Stage(4, 0, head=head), 4)
    after = fold_shuffles(before)
    assert SHUFFLES & {*targets(after)}
    torch.testing.assert_close(after(*before.example_inputs), before(*before.example_inputs), rtol=0, atol=0)


def test_a_network_without_shuffles_keeps_its_concatenations():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.three(torch.cat([self.one(x), self.two(x)], 1))

    before = program(Branches(), 4)
    assert targets(fold_shuffles(before)) == targets(before)
