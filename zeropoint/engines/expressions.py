"""Expressions: operators that an engine lacks, as those that it has; each computes the same.

They are traced where an operator of the graph is decomposed (``engines.decompositions``).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from zeropoint.errors import InputError
from zeropoint.graph.operators import aten


def pool_adaptively(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Adaptive average pooling of one or two axes, as OpenVINO's front end knows it.

    To one place it is a mean, without the strides that PyTorch's own asks for.
    """
    if all(size == 1 for size in sizes):
        return x.mean(list(range(-len(sizes), 0)), keepdim=True)
    if len(sizes) == 1:
        return pool_adaptively(x.unsqueeze(-2), [1, *sizes]).squeeze(-2)
    return cast(Tensor, aten._adaptive_avg_pool2d.default(x, sizes))


def largest_of_windows(x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Adaptive maximum pooling, and where the maxima are."""
    seen, places, _ = _windows(x, sizes)
    values, which = seen.max(-1)
    chosen = places.expand(*which.shape, -1).gather(-1, which.unsqueeze(-1)).squeeze(-1)
    return values.unflatten(-1, sizes), chosen.unflatten(-1, sizes)


def mean_of_windows(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Adaptive average pooling of any number of axes."""
    seen, _, shares = _windows(x, sizes)
    means: Tensor = (seen * shares).sum(-1).unflatten(-1, sizes)
    return means


def _windows(x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """What each output of adaptive pooling reads, its places in the flat last axes, and shares of a mean.

    Output i of m reads from floor(i n / m) to ceil((i + 1) n / m) of n values. Of windows that are shorter
    than the longest one the last place is repeated, with a share of 0.
    """
    places, shares = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1)
    for count, size in zip(x.shape[-len(sizes) :], sizes, strict=True):
        outputs = torch.arange(size)
        first, end = outputs * count // size, ((outputs + 1) * count + size - 1) // size
        longest = max(-(-(i + 1) * count // size) - i * count // size for i in range(size))
        steps = torch.arange(longest)
        own = torch.minimum(first[:, None] + steps, end[:, None] - 1)
        share = (first[:, None] + steps < end[:, None]) / (end - first)[:, None]
        places = (places[:, None, :, None] * count + own[None, :, None, :]).flatten(2).flatten(0, 1)
        shares = (shares[:, None, :, None] * share[None, :, None, :]).flatten(2).flatten(0, 1)
    seen = x.flatten(-len(sizes)).index_select(-1, places.flatten()).unflatten(-1, places.shape)
    return seen, places, shares


def unfold(x: Tensor, axis: int, size: int, step: int) -> Any:
    """Windows of ``size`` along an axis, a new last axis, which PyTorch makes of strides."""
    axis %= x.dim()
    count = (x.shape[axis] - size) // step + 1
    places = torch.arange(count)[:, None] * step + torch.arange(size)
    return x.index_select(axis, places.flatten()).unflatten(axis, (count, size)).movedim(axis + 1, -1)


def index_add(x: Tensor, axis: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """``aten.index_add`` by ``scatter_add``, for front ends that do not see ``alpha``."""
    shape = [-1 if one == axis % x.dim() else 1 for one in range(x.dim())]
    places = index.reshape(shape).expand(source.shape)
    return x.scatter_add(axis, places, source if alpha == 1 else source * alpha)


def hypot(x: Tensor, y: Tensor) -> Tensor:
    """The root of the sum of two squares."""
    return torch.sqrt(x * x + y * y)


def truncate(x: Tensor) -> Tensor:
    """Rounding towards 0."""
    return torch.where(x < 0, torch.ceil(x), torch.floor(x))


def fraction(x: Tensor) -> Tensor:
    """What rounding towards 0 leaves."""
    return x - truncate(x)


def round_to(x: Tensor, *, decimals: int) -> Tensor:
    """Rounding to a number of decimals; negative for tens, hundreds."""
    return torch.round(x * 10.0**decimals) / 10.0**decimals


def copy_sign(x: Tensor, sign: Tensor | float) -> Tensor:
    """``aten.copysign``; a zero counts as positive, whatever its sign."""
    if isinstance(sign, Tensor):
        return torch.where(sign < 0, -x.abs(), x.abs())
    return -x.abs() if math.copysign(1, sign) < 0 else x.abs()


def x_log_y(x: Tensor, y: Tensor | float) -> Tensor:
    """``aten.xlogy``: 0 where ``x`` is."""
    log = torch.log(y if isinstance(y, Tensor) else torch.full_like(x, y))
    return torch.where(x == 0, torch.zeros_like(x), x * log)


def cross_product(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """Of vectors of three numbers along an axis."""
    following, last = (torch.arange(3) + 1) % 3, (torch.arange(3) + 2) % 3
    return x.index_select(dim, following) * y.index_select(dim, last) - x.index_select(
        dim, last
    ) * y.index_select(dim, following)


def nth_smallest(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """``aten.kthvalue``: the value and its place."""
    values, places = x.sort(dim)
    chosen = [one.narrow(dim, k - 1, 1) for one in (values, places)]
    values, places = chosen if keepdim else [one.squeeze(dim) for one in chosen]
    return values, places


def median(x: Tensor, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower one of two, as PyTorch has it."""
    return nth_smallest(x, (x.shape[dim] + 1) // 2, dim, keepdim)


def distances(x: Tensor, y: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor:
    """``aten.cdist`` of (..., n, c) and (..., m, c): (..., n, m).

    As PyTorch does, Euclidean ones of more than 25 points by ``|x|^2 + |y|^2 - 2 x y``.
    """
    if p == 2 and (compute_mode == 1 or (compute_mode in (None, 0) and max(x.shape[-2], y.shape[-2]) > 25)):
        squares = x.square().sum(-1, keepdim=True) + y.square().sum(-1).unsqueeze(-2)
        return (squares - 2 * (x @ y.mT)).clamp(min=0).sqrt()
    apart = (x.unsqueeze(-2) - y.unsqueeze(-3)).abs()
    if p == 0:
        return (apart != 0).to(x.dtype).sum(-1)
    if p == 1:
        return apart.sum(-1)
    if p == math.inf:
        return apart.amax(-1)
    if p == 2:
        return apart.square().sum(-1).sqrt()
    return apart.pow(p).sum(-1).pow(1 / p)


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance.abs()).clamp(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution (1981, eq. 4) with the parameter -1/2."""
    x = distance.abs()
    near, far = ((1.5 * x - 2.5) * x) * x + 1, (((-0.5 * x + 2.5) * x) - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _resize_smoothly(kernel: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Resizing of images (N, C, H, W) with antialiasing: a matrix for rows and one for columns.

    A pixel of the result is the mean of the pixels around its place, weighted by the kernel, which is as
    much wider as the image gets smaller.
    """

    def weights(before: int, after: int, factor: float, align_corners: bool, dtype: torch.dtype) -> Tensor:
        step = (before - 1) / max(after - 1, 1) if align_corners else 1 / factor
        middles = (torch.arange(after, dtype=dtype) + 0.5) * step
        places = torch.arange(before, dtype=dtype) + 0.5
        found = kernel((places - middles.unsqueeze(1)) / max(step, 1.0))
        return found / found.sum(1, keepdim=True)

    def resize(
        x: Tensor, size: Sequence[int] | None, align_corners: bool, factors: Sequence[float] | None = None
    ) -> Tensor:
        height, width = x.shape[-2:]
        if isinstance(height, torch.SymInt) or isinstance(width, torch.SymInt):
            raise InputError("images of any size cannot be resized with antialiasing; capture fixed sizes")
        up, across = factors or (size[0] / height, size[1] / width)  # type: ignore[index]
        rows, columns = size or (int(height * up), int(width * across))
        of_rows = weights(height, rows, up, align_corners, x.dtype)
        of_columns = weights(width, columns, across, align_corners, x.dtype)
        return of_rows @ x @ of_columns.mT

    return resize


triangle_resized, cubic_resized = _resize_smoothly(_triangle), _resize_smoothly(_cubic)


def _running(combine: Callable[[Tensor, Tensor], Tensor], x: Tensor, dim: int) -> Tensor:
    """Each value combined with all before it, in a number of steps that is the logarithm of theirs.

    After a step a value holds twice as many (Hillis and Steele 1986, "Data parallel algorithms").
    """
    count, step = x.shape[dim], 1
    if isinstance(count, torch.SymInt):
        raise InputError(
            "a running product or maximum of any number of values cannot be had; capture fixed sizes"
        )
    while step < count:
        later = combine(x.narrow(dim, step, count - step), x.narrow(dim, 0, count - step))
        x, step = torch.cat([x.narrow(dim, 0, step), later], dim), 2 * step
    return x


def running_product(x: Tensor, dim: int) -> Tensor:
    """``aten.cumprod``."""
    return _running(torch.mul, x, dim)


def running_log_sum(x: Tensor, dim: int) -> Tensor:
    """``aten.logcumsumexp``."""

    def add(one: Tensor, other: Tensor) -> Tensor:
        larger = torch.maximum(one, other)
        sums = (one - larger).exp() + (other - larger).exp()
        return torch.where(larger == -math.inf, larger, larger + sums.log())

    return _running(add, x, dim)


def _running_extreme(combine: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """``aten.cummax`` or ``cummin``: the values, and the last place where each of them is."""

    def extreme(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        values = _running(combine, x, dim)
        shape = [-1 if axis == dim % x.dim() else 1 for axis in range(x.dim())]
        places = torch.arange(x.shape[dim]).reshape(shape)
        return values, _running(torch.maximum, torch.where(x == values, places, 0), dim)

    return extreme


def find_places(
    limits: Tensor,
    values: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """``aten.searchsorted`` of (..., n) limits and (..., m) values: how many limits are below each value."""
    if sorter is not None:
        limits = limits.gather(-1, sorter)
    limits, values = limits.unsqueeze(-2), values.unsqueeze(-1)
    is_below = limits <= values if right or side == "right" else limits < values
    return is_below.sum(-1).to(torch.int32 if out_int32 else torch.int64)


def diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """``aten.diagonal``: a new last axis of the values of two others at equal places."""
    x = x.movedim((dim1, dim2), (-2, -1))
    rows, columns = x.shape[-2:]
    if isinstance(rows, torch.SymInt) or isinstance(columns, torch.SymInt):
        raise InputError("a diagonal of any size cannot be had; capture fixed sizes")
    first = (max(-offset, 0), max(offset, 0))
    count = min(rows - first[0], columns - first[1])
    places = torch.arange(count) * (columns + 1) + (first[0] * columns + first[1])
    return x.flatten(-2).index_select(-1, places)


# What neither OpenVINO nor ONNX Runtime has; OpenVINO's sums of differences are NaN.
IN_NEITHER: dict[Any, Callable[..., Any]] = {
    aten.hypot.default: hypot,
    aten.copysign.Tensor: copy_sign,
    aten.copysign.Scalar: copy_sign,
    aten.kthvalue.default: nth_smallest,
    aten.median.dim: median,
    aten.cdist.default: distances,
    aten.cumprod.default: running_product,
    aten.logcumsumexp.default: running_log_sum,
    aten.cummax.default: _running_extreme(torch.maximum),
    aten.cummin.default: _running_extreme(torch.minimum),
    aten.searchsorted.Tensor: find_places,
}
