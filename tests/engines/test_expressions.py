"""Operators that engines lack: their expressions equal PyTorch's own, and run."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zeropoint as zp
from zeropoint.engines import expressions

X = torch.randn(3, 4, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = X.flip(0) * 1.5
OWN: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
    "hypot": (lambda: expressions.hypot(X, Y), lambda: torch.hypot(X, Y)),
    "trunc": (lambda: expressions.truncate(3 * X), lambda: torch.trunc(3 * X)),
    "frac": (lambda: expressions.fraction(3 * X), lambda: torch.frac(3 * X)),
    "decimals": (lambda: expressions.round_to(X, decimals=2), lambda: X.round(decimals=2)),
    "tens": (lambda: expressions.round_to(90 * X, decimals=-1), lambda: (90 * X).round(decimals=-1)),
    "copysign": (lambda: expressions.copy_sign(X, Y), lambda: torch.copysign(X, Y)),
    "copysign of a number": (lambda: expressions.copy_sign(X, -0.0), lambda: torch.copysign(X, -0.0)),
    "xlogy": (lambda: expressions.x_log_y(X.relu(), X.relu()), lambda: torch.xlogy(X.relu(), X.relu())),
    "xlogy of a number": (lambda: expressions.x_log_y(X.relu(), 0.0), lambda: torch.xlogy(X.relu(), 0.0)),
    "cross": (
        lambda: expressions.cross_product(X[:, :3], Y[:, :3], dim=1),
        lambda: torch.linalg.cross(X[:, :3], Y[:, :3], dim=1),
    ),
    "kthvalue": (lambda: expressions.nth_smallest(X, 2, 1)[0], lambda: X.kthvalue(2, 1)[0]),
    "median of an even number": (lambda: expressions.median(X, 2, True)[0], lambda: X.median(2, True)[0]),
    "place of the median": (lambda: expressions.median(X)[1], lambda: X.median(-1)[1]),
    "cumprod": (lambda: expressions.running_product(X, 2), lambda: X.cumprod(2)),
    "cumprod of one": (lambda: expressions.running_product(X[:, :1], 1), lambda: X[:, :1].cumprod(1)),
    "logcumsumexp": (
        lambda: expressions.running_log_sum(torch.where(X > 0, 90 * X, -math.inf), -1),
        lambda: torch.where(X > 0, 90 * X, -math.inf).logcumsumexp(-1),
    ),
    "searchsorted": (
        lambda: expressions.find_places(X.sort(-1)[0], X.sort(-1)[0][..., 1:3]),
        lambda: torch.searchsorted(X.sort(-1)[0], X.sort(-1)[0][..., 1:3].contiguous()),
    ),
    "searchsorted from the right": (
        lambda: expressions.find_places(X[0, 0, 0], X, right=True, sorter=X[0, 0, 0].argsort()),
        lambda: torch.searchsorted(X[0, 0, 0], X, right=True, sorter=X[0, 0, 0].argsort()),
    ),
    **{
        f"diagonal {offset}": (
            lambda offset=offset: expressions.diagonal(X, offset, 3, 1),
            lambda offset=offset: X.diagonal(offset, 3, 1),
        )
        for offset in (-2, 0, 1)
    },
    **{
        f"cdist {p} {mode}": (
            lambda p=p, mode=mode: expressions.distances(X, Y[..., :4, :], p, mode),
            lambda p=p: torch.cdist(X, Y[..., :4, :], p),
        )
        for p in (0.0, 1.0, 2.0, 3.0, math.inf)
        for mode in (None, 1)
    },
    **{
        f"{mode} to {size or factors}{' by corners' if corners else ''}": (
            lambda mode=mode, size=size, factors=factors, corners=corners: (
                expressions.triangle_resized if mode == "bilinear" else expressions.cubic_resized
            )(X, size, corners, factors),
            lambda mode=mode, size=size, factors=factors, corners=corners: F.interpolate(
                X, size, factors, mode, corners, antialias=True
            ),
        )
        for mode in ("bilinear", "bicubic")
        for size, factors in (((3, 2), None), ((9, 2), None), (None, (0.6, 1.7)))
        for corners in (False, True)
    },
}


@pytest.mark.parametrize("name", OWN)
def test_an_expression_is_what_pytorch_computes(name: str):
    own, expected = (function() for function in OWN[name])
    assert own.shape == expected.shape
    assert torch.allclose(own, expected, rtol=1e-6, atol=1e-6)


class Operators(nn.Module):
    """Each operator that an engine lacks; (N, 3, 8, 8) to a list."""

    def forward(self, x: Tensor) -> list[Tensor]:
        tokens = x.flatten(2).mT  # (N, 64, 3)
        return [
            torch.hypot(x, x + 1),
            torch.trunc(3 * x),
            torch.frac(3 * x),
            torch.copysign(x, x.flip(1)),
            torch.copysign(x, -2),
            torch.xlogy(x.relu(), 2),
            torch.xlogy(x.relu(), x.relu()),
            torch.linalg.cross(x, x.roll(1, 2), dim=1),
            x.kthvalue(3, 2, keepdim=True)[0],
            x.median(-1)[0],
            torch.cdist(tokens, tokens[:, ::2] + 1),
            torch.cdist(tokens[:, :9], tokens[:, 9:12] + 1),
            torch.cdist(tokens, tokens[:, :5] + 1, p=1),
            F.interpolate(x, (5, 3), mode="bilinear", antialias=True),
            F.interpolate(x, scale_factor=0.5, mode="bicubic", antialias=True),
            x.cumprod(2),
            *torch.cummax(x.round(decimals=1), 2),
            *torch.cummin(x, -1),
            x.logcumsumexp(1),
            torch.searchsorted(torch.linspace(-1, 1, 9).to(x), x),
            torch.diagonal(x, 1, 2, 3),
            *(
                x.scatter_reduce(2, (3 * x).long().abs() % 5, x.flip(2), reduce, include_self=own)
                for reduce in ("sum", "mean", "amax", "amin", "prod")
                for own in (True, False)
            ),
            F.bilinear(tokens, tokens + 1, x.new_ones(2, 3, 3)),
        ]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_engines_run_operators_that_they_lack(engine: str):
    one, other = (torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(n)) for n in (2, 5))
    runner = zp.compile(zp.capture(Operators(), one), engine, threads=1)
    for output, expected in zip(runner(other), Operators().double()(other.double()), strict=True):
        assert torch.allclose(torch.as_tensor(output).double(), expected.double(), rtol=1e-3, atol=1e-4)


def test_images_of_any_size_are_not_resized_by_the_matrices_of_one():
    class Halved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)

    program = zp.capture(Halved(), torch.randn(2, 3, 16, 16), free_sizes=True)
    with pytest.raises(zp.InputError, match=r"capture fixed sizes$"):
        zp.compile(program, "openvino", threads=1)
