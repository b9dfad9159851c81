"""Soft rounding: a weight between two neighbours on its grid, as a variable says that can be learned.

Nagel et al. 2020 (arXiv 2004.10568), eq. 22 to 24.
"""

import dataclasses

import torch
from torch import Tensor

from zeropoint.graph.quantizers import Quantizer
from zeropoint.numerics.scheme import per_channel_shape

ZETA, GAMMA = 1.1, -0.1  # the limits that the sigmoid is stretched to: Nagel et al. 2020, eq. 23
ON_GRID = 1e-4  # of a step: a weight this near to the grid counts as on it
DECIDED = 0.1  # of a step: where a weight on the grid starts, towards its neighbour


@dataclasses.dataclass(frozen=True)
class SoftWeight:
    """A weight between ``floor``, in steps of its grid from zero, and the next step, as V says."""

    quantizer: Quantizer
    floor: Tensor
    v: Tensor

    def at(self, h: Tensor) -> Tensor:
        """``s * clip(floor + h, n, p)``: Nagel et al. 2020, eq. 22."""
        shape = per_channel_shape(self.quantizer.scale, h.dim(), self.quantizer.axis)
        zero_point, scheme = self.quantizer.zero_point.reshape(shape), self.quantizer.scheme
        steps = torch.clamp(self.floor + h, scheme.qmin - zero_point, scheme.qmax - zero_point)
        return steps * self.quantizer.scale.reshape(shape)

    @property
    def soft(self) -> Tensor:
        """What is learned from."""
        return self.at(rectified_sigmoid(self.v))

    @property
    def hard(self) -> Tensor:
        """The nearest on the grid."""
        return self.at((rectified_sigmoid(self.v.detach()) >= 0.5).float())


def soft_weight(weight: Tensor, quantizer: Quantizer, origin: Tensor) -> SoftWeight:
    """The weight with a V that gives it back.

    One that lies on the grid already may move to its neighbour on the side of ``origin``, which is what it
    was rounded from, and sets out a little towards it, since V has no gradient at the ends.
    """
    scale = quantizer.scale.reshape(per_channel_shape(quantizer.scale, weight.dim(), quantizer.axis))
    steps = weight / scale
    level = steps.round()
    on_grid = (steps - level).abs() < ON_GRID
    beside = level - (origin / scale < level).float()
    floor = torch.where(on_grid, beside, steps.floor())
    fraction = (steps - floor).clamp(0, 1)
    fraction = torch.where(on_grid, fraction.clamp(DECIDED, 1 - DECIDED), fraction)
    return SoftWeight(quantizer, floor, inverse_sigmoid(fraction).requires_grad_())


def rectified_sigmoid(v: Tensor) -> Tensor:
    """``h(V)`` from 0 to 1, both of which it reaches: Nagel et al. 2020, eq. 23."""
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def inverse_sigmoid(h: Tensor) -> Tensor:
    """The V nearest to 0 for which ``rectified_sigmoid`` gives ``h``."""
    return torch.logit((h - GAMMA) / (ZETA - GAMMA))


def regularizer(h: Tensor, beta: float) -> Tensor:
    """The sum of ``1 - |2h - 1|^beta``, 0 where all are 0 or 1: Nagel et al. 2020, eq. 24."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()
