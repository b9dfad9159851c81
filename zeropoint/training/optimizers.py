"""Optimizers: their parameter groups, the learning-rate schedule, and the moving average of the weights."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from zeropoint.torch_private.tensors import lerp_
from zeropoint.training.options import TrainingOptions

RATE = 0.01  # learning rate if none is given
_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda groups, rate: torch.optim.SGD(groups, rate, momentum=0.9, nesterov=True),
    "adamw": lambda groups, rate: torch.optim.AdamW(groups, rate),
}


def optimizer(groups: Sequence[dict[str, Any]], options: TrainingOptions) -> torch.optim.Optimizer:
    """The optimizer of these parameter groups."""
    return _OPTIMIZERS[options.optimizer](groups, options.learning_rate or RATE)


def decayed(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups with weight decay for all parameters but vectors."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def warm_cosine(steps: int, warmup: float) -> Callable[[int], float]:
    """The factor of the learning rate at each step (Loshchilov & Hutter 2017, equation 5, no restarts)."""
    rising = round(steps * warmup)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2

    return factor


def moving_average(module: nn.Module, most: float) -> AveragedModel:
    """An exponential moving average of the weights, which begins with those of now.

    Its decay rises to ``most``: a constant one would leave much of the start in a short training.
    """

    def lerp(averages: Any, weights: Any, count: Any) -> None:
        lerp_(averages, weights, 1 - min(most, int(count) / (int(count) + 9)))

    averaged = AveragedModel(module, multi_avg_fn=torch.no_grad()(lerp))
    averaged.update_parameters(module)
    return averaged
