"""Channel shuffles folded into weights: the same outputs, and no shuffle left."""

import copy
import operator

import pytest
import torch
from networks import randomized
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from zeropoint.graph.capture import capture
from zeropoint.graph.operators import aten
from zeropoint.graph.program import Program
from zeropoint.passes.fold import fold_affine
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
    return fold_affine(capture(randomized(model), inputs))


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
    before = program(Stage(4, 1), 4)
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


class Read(nn.Module):
    """Two convolutions, a shuffle and what reads it."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(shuffle(torch.cat([self.left(x), self.right(x)], 1), 2))


@pytest.mark.parametrize(
    "head",
    [nn.Identity(), Flat(8), Twice(8), nn.Conv2d(8, 8, 1, groups=2), nn.AdaptiveAvgPool2d(1), nn.Softmax(1)],
    ids=["output", "flatten", "shared weight", "grouped", "pooled output", "softmax"],
)
def test_what_reads_channels_in_their_order_keeps_it(head: nn.Module):
    before = program(Read(head), 4)
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


class Split(nn.Module):
    """Two convolutions, a shuffle, a split into parts of these sizes, and a convolution for each part."""

    def __init__(self, how: str, sizes: tuple[int, ...], dimensions: int = 2) -> None:
        super().__init__()
        kind = nn.Conv2d if dimensions == 2 else nn.Conv1d
        self.left, self.right = kind(3, 4, 1), kind(3, 4, 1)
        self.readers = nn.ModuleList(kind(size, 2, 1) for size in sizes)
        self.how, self.sizes = how, sizes

    def forward(self, x: Tensor) -> list[Tensor]:
        rank = x.dim()
        axis = 1 - rank if self.how == "axes from the end" else 1
        x = torch.cat([self.left(x), self.right(x).relu()], axis)
        if self.how == "operator":
            x = nn.functional.channel_shuffle(x, 2)
        elif self.how == "flatten":
            x = x.unflatten(1, (2, -1)).transpose(2, 1).flatten(1, 2)
        else:
            x = shuffle(x, 2)
        return [reader(part) for reader, part in zip(self.readers, x.split(self.sizes, axis), strict=True)]


class Beside(nn.Module):
    """Networks that read the same input: captured at once, since that takes the most time."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> list[object]:
        return [part(x) for part in self.parts]


SPLIT = [("views", (4, 4)), ("operator", (2, 6)), ("flatten", (3, 1, 4)), ("axes from the end", (5, 3))]


@pytest.mark.parametrize(("cases", "dimensions"), [(SPLIT, 2), (SPLIT[:1], 1)])
def test_parts_of_a_shuffle_go_to_their_readers(cases: list[tuple[str, tuple[int, ...]]], dimensions: int):
    model = randomized(Beside(*(Split(how, sizes, dimensions) for how, sizes in cases)))
    places = (4, 6)[:dimensions]
    x, other = (torch.randn(2, 3, *places, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    before = capture(model, x)
    after = fold_shuffles(before)
    assert not SHUFFLES & {*targets(after)}
    expected = copy.deepcopy(model).double()(other.double())
    for parts, wanted in zip(after(other), expected, strict=True):
        for found, part in zip(parts, wanted, strict=True):
            torch.testing.assert_close(found.double(), part, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        shapes = Shapes(after.module)
        shapes.run(x)
    for node, value in shapes.seen.items():
        assert node.meta["val"].shape[1:] == value.shape[1:]
    assert SHUFFLES & {*targets(before)}


class Shapes(Interpreter):
    """The tensor of every operator."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> object:
        value = super().run_node(n)
        if n.op == "call_function" and isinstance(value, Tensor):
            self.seen[n] = value
        return value


class Turned(nn.Module):
    """What looks like a channel shuffle, and is none."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 2, 1)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.one(x), self.two(x)], 1)
        n, c, h, w = x.shape
        if self.how == "channels with rows":
            return self.last(x.transpose(1, 2).reshape(n, c, h, w))
        if self.how == "groups with rows":
            return self.last(x.view(n, 2, 4, h, w).transpose(2, 3).reshape(n, c, h, w))
        if self.how == "to other places":
            return self.last(x.view(n, 2, 4, h, w).transpose(1, 2).reshape(n, c, w, h))
        if self.how == "places taken in":
            return self.last(x.view(n, 4, 2 * h, w).transpose(1, 2).reshape(n, c, h, w))
        if self.how == "joined along rows":
            y = torch.cat([x, x], 2)
            return self.last(shuffle(y, 2))[:, :, ::2]
        return self.last(torch.cat([part for part in shuffle(x, 2).chunk(2, 3)], 2))  # split along columns


def test_other_moves_give_what_they_did():
    kinds = [
        *("channels with rows", "groups with rows", "to other places", "places taken in"),
        *("joined along rows", "split along columns"),
    ]
    model = randomized(Beside(*map(Turned, kinds)))
    x, other = (torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    after = fold_shuffles(capture(model, x))
    for found, wanted in zip(after(other), copy.deepcopy(model).double()(other.double()), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


def test_a_value_that_something_else_reads_keeps_its_order():
    class Thrice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
            self.other = nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            one = self.one(x)
            first, second = shuffle(torch.cat([one, self.two(x)], 1), 2).chunk(2, 1)
            return self.last(first), self.other(second), one.softmax(1)

    model = randomized(Thrice())
    x, other = (torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    after = fold_shuffles(capture(model, x))
    for found, wanted in zip(after(other), copy.deepcopy(model).double()(other.double()), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
