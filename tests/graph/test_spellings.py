"""Operators by several names, and contractions: each as the one operator that rules know."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zeropoint.graph.capture import capture
from zeropoint.graph.operators import aten
from zeropoint.graph.program import Program


class Of(nn.Module):
    """A layer, and what ``function`` makes of its output and a stored tensor of some shape."""

    def __init__(self, function, *shape):
        super().__init__()
        self.layer, self.function = nn.Linear(4, 6), function
        self.stored = nn.Parameter(torch.randn(shape)) if shape else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return self.function(y) if self.stored is None else self.function(y, self.stored)


def captured(model: nn.Module, x: Tensor) -> tuple[Program, list[object]]:
    """The Program, which computes the same, also of another batch, and the operators behind the layer."""
    program = capture(model.eval(), x)
    for inputs in (x, torch.cat([x, x + 1])):
        torch.testing.assert_close(program(inputs), model(inputs))
    targets = [node.target for node in program.module.graph.nodes if node.op == "call_function"]
    return program, targets[targets.index(aten.linear.default) + 1 :]


X = torch.randn(2, 5, 4)
SPELLINGS = {
    "concat": (lambda y: torch.concat([y, y], 1), aten.cat.default),
    "concatenate": (lambda y: torch.concatenate([y, y], -1), aten.cat.default),
    "hstack": (lambda y: torch.hstack([y, y]), aten.cat.default),
    "vstack": (lambda y: torch.vstack([y.transpose(0, 1), y.transpose(0, 1)]), aten.cat.default),
    "multiply": (lambda y: torch.multiply(y, y), aten.mul.Tensor),
    "subtract": (lambda y: torch.subtract(y, y.abs()), aten.sub.Tensor),
    "subtract times": (lambda y: torch.subtract(y, y.abs(), alpha=2), aten.sub.Tensor),
    "divide": (lambda y: torch.divide(y, y.abs() + 1), aten.div.Tensor),
    "true_divide": (lambda y: torch.true_divide(y, y.abs() + 1), aten.div.Tensor),
    "negative": (torch.negative, aten.neg.default),
    "absolute": (torch.absolute, aten.abs.default),
    "clip": (lambda y: torch.clip(y, -0.5, 1), aten.clamp.default),
    "clip of tensors": (lambda y: torch.clip(y, y.mean(), None), aten.clamp.Tensor),
    "clamp_min": (lambda y: torch.clamp_min(y, 0.1), aten.clamp.default),
    "clamp_max": (lambda y: torch.clamp_max(y, 0.1), aten.clamp.default),
    "expit": (torch.special.expit, aten.sigmoid.default),
    "softmax": (lambda y: torch.special.softmax(y, 1), aten.softmax.int),
    "mean": (lambda y: y + y.mean(), aten.mean.dim),
    "sum": (lambda y: y + y.sum(), aten.sum.dim_IntList),
    "linalg.matmul": (lambda y: torch.linalg.matmul(y, y.transpose(1, 2)), aten.matmul.default),
    "swapaxes": (lambda y: y.swapaxes(1, 2), aten.transpose.int),
    "swapdims": (lambda y: y.swapdims(-1, 1), aten.transpose.int),
    "mT": (lambda y: y.mT, aten.transpose.int),
    "t": (lambda y: y[:, 0].t(), aten.transpose.int),
    "T": (lambda y: y[:, 0].T, aten.permute.default),
    "movedim": (lambda y: y.movedim(1, -1), aten.permute.default),
    "movedim of several": (lambda y: y[:, None].movedim((0, 3), (2, 0)), aten.permute.default),
    "moveaxis": (lambda y: y.moveaxis(0, 2), aten.permute.default),
    "moveaxis of several": (lambda y: y[:, None].moveaxis((-1, 1), (1, 2)), aten.permute.default),
    "ravel": (lambda y: y.ravel(), aten.flatten.using_ints),
    "narrow": (lambda y: y.narrow(1, 1, 3), aten.slice.Tensor),
    "narrow from the end": (lambda y: y.narrow(1, -3, 2), aten.narrow.default),
    "squeeze": (lambda y: y[:, :1].squeeze(), aten.squeeze.dims),
    "broadcast_to": (lambda y: y[:, :1].broadcast_to(y.shape), aten.expand.default),
    "unsafe_chunk": (lambda y: torch.unsafe_chunk(y, 2, 2)[1], aten.chunk.default),
    "unsafe_split": (lambda y: torch.unsafe_split(y, 2, 2)[1], aten.split.Tensor),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_one_spelling(name: str):
    function, expected = SPELLINGS[name]
    assert expected in captured(Of(function), X)[1]


NOTHING = {
    "to": lambda y: y.to(torch.float32),
    "type_as": lambda y: y.type_as(y.abs()),
    "resolve_conj": torch.resolve_conj,
    "squeeze": lambda y: y.squeeze(),  # of no axis of one
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_changes_nothing_is_left_out(name: str):
    assert captured(Of(NOTHING[name]), X)[1] in ([], [aten.abs.default])


def test_conversions_to_another_type_stay():
    _, found = captured(Of(lambda y: y.to(torch.int32).to(torch.float32)), X)
    assert len(found) == 2


LAYERS = {
    "einsum": (lambda y, w: torch.einsum("bnc,cd->bnd", y, w), (6, 3)),
    "einsum of a transposed matrix": (lambda y, w: torch.einsum("bnc,dc->bnd", y, w), (3, 6)),
    "einsum with the constant first": (lambda y, w: torch.einsum("cd,bnc->bnd", w, y), (6, 3)),
    "einsum to channels first": (lambda y, w: torch.einsum("bnc,cd->bdn", y, w), (6, 3)),
    "einsum over the middle axis": (lambda y, w: torch.einsum("bnc,nd->bdc", y, w), (5, 3)),
    "einsum to heads": (lambda y, w: torch.einsum("bnc,chd->bhnd", y, w), (6, 2, 3)),
    "einsum over two axes": (lambda y, w: torch.einsum("bnc,ncd->bd", y, w), (5, 6, 3)),
    "einsum of heads": (lambda y, w: torch.einsum("bnhc,hcd->bnd", y.unflatten(2, (2, 3)), w), (2, 3, 4)),
    "einsum of any axes": (lambda y, w: torch.einsum("...c,cd->...d", y, w), (6, 3)),
    "einsum without its output": (lambda y, w: torch.einsum("bnc,cd", y, w), (6, 3)),
    "tensordot": (lambda y, w: torch.tensordot(y, w, 1), (6, 3)),
    "tensordot over two axes": (lambda y, w: torch.tensordot(y, w, ([2, 1], [0, 2])), (6, 3, 5)),
    "inner": (torch.inner, (3, 6)),
    "inner of a stack": (torch.inner, (2, 3, 6)),
    "bilinear": (lambda y, w: F.bilinear(y, y + 1, w), (4, 6, 6)),
    "bilinear of an image, with a bias": (
        lambda y, w: F.bilinear(y[:, :, None], y[:, :, None, :3], w, w[:, 0, 0]),
        (4, 6, 3),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_contractions_with_a_constant_are_linear_layers(name: str):
    function, shape = LAYERS[name]
    program, found = captured(Of(function, *shape), X)
    assert found.count(aten.linear.default) == 1
    assert not {aten.einsum.default, aten.tensordot.default, aten.inner.default, aten.bilinear.default} & {
        *found
    }
    (layer,) = [node for node in program.module.graph.nodes if node.target is aten.linear.default][1:]
    assert layer.args[1].op == "get_attr"


PRODUCTS = {
    "einsum of tokens": lambda y: torch.einsum("bic,bjc->bij", y, y),
    "einsum of channels": lambda y: torch.einsum("bnc,bnd->bdc", y, y + 1),
    "einsum of heads": lambda y: torch.einsum(
        "bihc,bjhc->bhij", y.unflatten(2, (2, 3)), y.unflatten(2, (2, 3))
    ),
    "einsum of XLNet": lambda y: torch.einsum(
        "ibnd,jbnd->bnij", *[y.transpose(0, 1).unflatten(2, (2, 3))] * 2
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_contractions_of_two_values_are_products(name: str):
    _, found = captured(Of(PRODUCTS[name]), X)
    assert aten.matmul.default in found
    assert aten.einsum.default not in found


LEFT = {
    "a diagonal": lambda y: torch.einsum("bii->bi", y[:, :, :5]),
    "three tensors": lambda y: torch.einsum("bic,bjc,bc->bij", y, y, y[:, 0]),
    "an outer product": lambda y: torch.einsum("bn,bc->bnc", y[:, :, 0], y[:, 0]),
    "a weighted sum": lambda y: torch.einsum("bnc,bn->bc", y, y[:, :, 0]),
    "a sum of one alone": lambda y: torch.einsum("bnc,bm->bn", y, y[:, :, 0]),
    "elements": lambda y: torch.einsum("bnc,bnc->bnc", y, y),
    "repeated sizes": lambda y: torch.einsum("bnc,bmc->bnm", y, y[:, :, :1]),
    "axes twice": lambda y: torch.einsum("bnc,bcc->bn", y[:, :, :5], y[:, :, :5]),
}


@pytest.mark.parametrize("name", LEFT)
def test_other_contractions_stay(name: str):
    _, found = captured(Of(LEFT[name]), X)
    assert aten.einsum.default in found
