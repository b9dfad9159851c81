"""Operator families on every engine: near to float, and at parity with the simulation.

Families of a group share a network, with outputs of their own, since a compilation takes a second, on the
torch engine ten: there all are one group.
"""

import functools
import itertools
from collections.abc import Callable

import pytest
import torch
from networks import Function, sqnr
from torch import Tensor, nn
from torch.nn import functional as F

import zeropoint as zp
from zeropoint.errors import InputError
from zeropoint.graph.quantizers import quantizers

N = 4  # items
Network = Callable[..., nn.Module]


class Of(nn.Module):
    """``function(weights, *inputs)`` of parameters and modules by name."""

    def __init__(self, function, **parts: Tensor | nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


class Together(nn.Module):
    """Networks side by side, each on inputs of its own."""

    def __init__(self, parts: list[nn.Module], arity: list[int]) -> None:
        super().__init__()
        self.parts, self.arity = nn.ModuleList(parts), arity

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = iter(inputs)
        return tuple(
            part(*(next(given) for _ in range(count)))
            for part, count in zip(self.parts, self.arity, strict=True)
        )


def bag(**settings: object) -> nn.Module:
    return Of(lambda m, *x: m.head(m.bag(*x)), bag=nn.EmbeddingBag(20, 16, **settings), head=nn.Linear(16, 8))


def chain(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts)


def add_at_indices(m: nn.Module, x: Tensor) -> Tensor:
    return m.head(x.index_add(1, torch.tensor([2, 0, 2, 1, 4, 4]), m.inner(x), alpha=2))


def routed(m: nn.Module, x: Tensor) -> Tensor:
    """The sum of linear layers whose weights are slices of a stack, as a router weighs them."""
    shares = m.router(x).softmax(-1)
    return sum(F.linear(x, m.stack[i]) * shares[:, i : i + 1] for i in range(3))


def scatter_add(m: nn.Module, x: Tensor, places: Tensor) -> Tensor:
    return m.head(x.scatter_add(1, places, m.inner(x)))


def by_bmm(m: nn.Module, x: Tensor) -> Tensor:
    return torch.bmm(x.transpose(0, 1), m.w).transpose(0, 1)


def by_matmul(m: nn.Module, x: Tensor) -> Tensor:
    return (x[:, None] @ m.w).relu() @ m.v


def by_einsum(m: nn.Module, x: Tensor) -> Tensor:
    return torch.einsum("bti,eoi->bteo", x, m.w)


def outputs(kind: type[nn.Module]) -> nn.Module:
    """The first output of a recurrent layer or cell."""
    made = kind(6, 8) if "Cell" in kind.__name__ else kind(6, 8, batch_first=True)
    return Of(lambda m, x: m.of(x)[0], of=made)


def floats(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(N, *shape)


def indices(largest: int, *shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, largest, (N, *shape))


def stack(*shape: int) -> Tensor:
    """Matrices of three experts, of different size."""
    return torch.randn(3, *shape) * torch.tensor([1.0, 0.1, 5.0]).reshape(3, 1, 1)


FAMILIES: dict[str, dict[str, tuple[Network, tuple[Callable[[], Tensor], ...]]]] = {
    "space": {
        "conv1d": (lambda: chain(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3, 2)), (floats(4, 9),)),
        "conv2d": (lambda: chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), (floats(3, 9, 9),)),
        "conv3d": (lambda: chain(nn.Conv3d(3, 8, 3), nn.ReLU(), nn.Conv3d(8, 4, 2)), (floats(3, 5, 5, 5),)),
        "conv_transpose1d": (lambda: nn.ConvTranspose1d(4, 8, 3, 2), (floats(4, 6),)),
        "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 8, 3, 2, output_padding=1), (floats(4, 6, 6),)),
        "conv_transpose3d": (lambda: nn.ConvTranspose3d(4, 8, 3, 2, 1, groups=2), (floats(4, 4, 4, 4),)),
    },
    "recurrent": {
        "lstm": (lambda: outputs(nn.LSTM), (floats(5, 6),)),
        "gru": (lambda: outputs(nn.GRU), (floats(5, 6),)),
        "rnn": (lambda: outputs(nn.RNN), (floats(5, 6),)),
        "lstm_cell": (lambda: outputs(nn.LSTMCell), (floats(6),)),
    },
    "bags": {
        **{
            mode + (" and padding" if padding else ""): (
                lambda mode=mode, padding=padding: bag(mode=mode, padding_idx=padding),
                (indices(20, 5),),
            )
            for mode in ("sum", "mean", "max")
            for padding in (None, 3)
        },
        "weights": (
            lambda: Of(lambda m, x, y: m.of(x, per_sample_weights=y), of=nn.EmbeddingBag(20, 16, mode="sum")),
            (indices(20, 5), floats(5)),
        ),
    },
    "indices": {
        "embedding": (lambda: chain(nn.Embedding(20, 16), nn.Linear(16, 8)), (indices(20, 5),)),
        "index_add": (
            lambda: Of(add_at_indices, inner=nn.Linear(8, 8), head=nn.Linear(8, 4)),
            (floats(6, 8),),
        ),
        "scatter_add": (
            lambda: Of(scatter_add, inner=nn.Linear(8, 8), head=nn.Linear(8, 4)),
            (floats(8), indices(8, 8)),
        ),
    },
    "experts": {
        "bmm": (lambda: Of(by_bmm, w=stack(16, 8)), (floats(3, 16),)),
        "matmul": (lambda: Of(by_matmul, w=stack(16, 8), v=stack(8, 6)), (floats(5, 16),)),
        "einsum": (lambda: Of(by_einsum, w=stack(8, 16)), (floats(5, 16),)),
        "slices": (lambda: Of(routed, stack=stack(8, 16), router=nn.Linear(16, 3)), (floats(16),)),
    },
}  # fmt: skip


GROUPS = FAMILIES | {
    "all": {name: family for group in FAMILIES.values() for name, family in group.items()},
    "matrices": FAMILIES["bags"] | FAMILIES["indices"] | FAMILIES["experts"],
}
CASES = [
    *itertools.product(FAMILIES, ["onnxruntime", "openvino"], ["fp32", "static", "dynamic"]),
    # ExecuTorch has no convolution over three axes, which "space" has.
    *itertools.product(sorted(FAMILIES.keys() - {"space"}), ["executorch"], ["fp32", "static", "dynamic"]),
    ("all", "torch", "fp32"),
    ("all", "torch", "static"),
    ("matrices", "torch", "dynamic"),  # convolutions stay float, recurrent layers are as in static
]


@functools.cache
def captured(group: str) -> tuple[nn.Module, list[tuple[Tensor, ...]], zp.Program]:
    """The network of a group, batches for it, and its Program."""
    torch.manual_seed(0)
    made = [(make(), of) for make, of in GROUPS[group].values()]
    model = Together([part for part, _ in made], [len(of) for _, of in made]).eval()
    data = [tuple(one() for _, of in made for one in of) for _ in range(4)]
    return model, data, zp.capture(model, data[0])


@pytest.mark.slow
@pytest.mark.parametrize(("group", "engine", "method"), CASES)
def test_a_family_is_right_on_an_engine(group: str, engine: str, method: str):
    model, data, program = captured(group)
    program = zp.quantize(program, method, calibration=data, target=engine)
    runner = zp.compile(program, engine, threads=1, batch_size=N)
    with torch.no_grad():
        outputs = [
            [torch.cat(batches) for batches in zip(*(run(*inputs) for inputs in data), strict=True)]
            for run in (model, program, runner)
        ]
    for name, expected, simulated, found in zip(GROUPS[group], *outputs, strict=True):
        assert sqnr(expected, found) > 25, name
        assert sqnr(expected, found) > min(sqnr(expected, simulated), 90) - 0.5, name


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_bags_of_different_sizes(engine: str, mode: str):
    torch.manual_seed(0)
    table = nn.EmbeddingBag(20, 16, mode=mode, padding_idx=3)
    x, offsets = torch.randint(0, 20, (16,)), torch.tensor([0, 4, 4, 9, 15])
    program = zp.quantize(zp.capture(table, (x, offsets)), "dynamic", target=engine)
    assert [one.name for one in quantizers(program.module)] == ["weight"]
    # Its batch is no batch of equal items, so that one item more often is no check.
    runner = zp.compile(program, engine, threads=1, batch_size=4, verify=False)
    for given in (offsets, torch.tensor([0, 0, 1, 16])):
        assert sqnr(table(x, given), runner(x, given)) > 35
        assert sqnr(program(x, given), runner(x, given)) > 90


@pytest.mark.parametrize("method", ["static", "dynamic", "weight-only"])
def test_every_output_of_every_expert_has_a_scale(method: str):
    torch.manual_seed(0)
    model = Of(lambda m, x: x[:, None] @ m.w, w=stack(16, 8))
    data = torch.randn(N, 5, 16)
    program = zp.quantize(zp.capture(model, data), method, calibration=[data], target="onnxruntime")
    (one,) = [one for one in quantizers(program.module) if one.is_weight]
    torch.testing.assert_close(one.scale.reshape(3, 8), model.w.detach().abs().amax(1) / 127)
    assert sqnr(model(data), program(data)) > 40


def test_an_operator_that_an_engine_lacks_is_named():
    model = Function(lambda _, x: torch.fft.rfft(x).abs())
    with pytest.raises(InputError, match=r"^openvino cannot run this fp32 Program: it has no aten\._fft_r2c"):
        zp.compile(zp.capture(model, torch.randn(2, 16)), "openvino")
