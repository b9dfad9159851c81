"""A few channels of ten times the range of others, as of transformers: scaled where products cost nothing."""

import pytest
import torch
from test_scalings import products
from torch import Tensor, nn
from torch.nn import functional

import zeropoint as zp
from zeropoint.graph.channels import trace
from zeropoint.graph.edits import tensor_of
from zeropoint.graph.operators import aten
from zeropoint.numerics.sqnr import sqnr_db
from zeropoint.passes.equalize import equalize
from zeropoint.targets.options import Options


class Blocks(nn.Module):
    """Residual blocks after one another, of one set of weights or of their own; two channels are outliers."""

    def __init__(self, times: int = 1, *, is_shared: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        wide = [nn.Linear(32, 64) for _ in range(times)]
        narrow = [nn.Linear(64, 32) for _ in range(times)]
        self.wide = nn.ModuleList([wide[0]] * times if is_shared else wide)
        self.narrow = nn.ModuleList([narrow[0]] * times if is_shared else narrow)
        with torch.no_grad():
            for first, second in set(zip(self.wide, self.narrow, strict=True)):
                first.weight[:2] *= 20
                second.weight[:, :2] /= 20

    def forward(self, x: Tensor) -> Tensor:
        for wide, narrow in zip(self.wide, self.narrow, strict=True):
            x = x + narrow(functional.gelu(wide(x)))
        return x


def tokens(batches: int = 8) -> list[Tensor]:
    return [torch.randn(4, 6, 32, generator=torch.Generator().manual_seed(i)) for i in range(batches)]


def scaled(network: nn.Module, data: list[Tensor]) -> tuple[zp.Program, zp.Program]:
    program = zp.capture(network.eval(), data[0])
    return program, equalize(program, data, Options(), multiplies_free=True).program


def test_outliers_behind_a_gelu_are_scaled_and_the_float_network_is_the_same():
    data = tokens()
    program, found = scaled(Blocks(), data)
    (product,) = products(found)
    assert product.args[0].target is aten.gelu.default
    factors = tensor_of(found.module, product.args[1])
    assert factors[2:].mean() > 5 * factors[:2].mean()
    assert sqnr_db(program(data[0]), found(data[0])) > 110
    assert not products(equalize(program, data, Options()).program)  # elsewhere a product takes time


@pytest.mark.parametrize("is_shared", [False, True])
def test_quantized_networks_gain(is_shared):
    data = tokens()
    program = zp.capture(Blocks(3, is_shared=is_shared).eval(), data[0])
    wanted = torch.cat([program(batch) for batch in data])

    def decibels(target: str) -> float:
        quantized = zp.quantize(program, calibration=data, target=target)
        return sqnr_db(wanted, torch.cat([quantized(batch) for batch in data]))

    # Not for another processor: without VNNI OpenVINO's linear layers read floats.
    assert decibels("torch") > decibels("onnxruntime") + 4


def test_layers_that_share_a_weight_share_the_factors():
    data = tokens()
    program, found = scaled(Blocks(3, is_shared=True), data)
    of_gelu = [product for product in products(found) if product.args[0].target is aten.gelu.default]
    assert len(of_gelu) == 3
    assert len({product.args[1] for product in of_gelu}) == 1
    assert sqnr_db(program(data[0]), found(data[0])) > 110


class ReadElsewhere(nn.Module):
    """A weight that is a table of embeddings, too: it has to stay as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = Blocks()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.blocks(x), functional.embedding((x[..., 0] > 0).long(), self.blocks.narrow[0].weight)


class Flattened(nn.Module):
    """Pixels that become the inputs of a layer, each with the range of its channel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear = nn.Conv2d(4, 8, 1), nn.Linear(8 * 48, 4)
        with torch.no_grad():
            self.conv.weight[:1] *= 50
            self.linear.weight[:, :48] /= 50

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(functional.gelu(self.conv(x.reshape(4, 4, 6, 8))).flatten(1))


@pytest.mark.parametrize("network", [ReadElsewhere(), Flattened()])
def test_what_cannot_be_scaled_stays(network):
    _, found = scaled(network, tokens())
    assert aten.gelu.default not in {product.args[0].target for product in products(found)}


def test_nodes_of_one_maker_make_the_same_channels():
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.sin(x), torch.cos(x)

    module = zp.capture(Two(), torch.randn(2, 3)).module
    made = {aten.sin.default, aten.cos.default}

    def channels(made_by) -> list[list[int]]:
        found = trace(module, lambda n: 1 if n.target in made else None, lambda *_: None, made_by)
        return [of.names.tolist() for of in found.values()]

    assert channels(lambda node: node) == [[0, 1, 2], [3, 4, 5]]
    assert channels(lambda node: "one") == [[0, 1, 2], [0, 1, 2]]
