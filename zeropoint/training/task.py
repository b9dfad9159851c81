"""Task: what to train and by which loss, and what came of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[tuple[Tensor, ...], Any, Any], Tensor]
"""From inputs, outputs and targets to the mean loss of the rows.

Of a classifier: from inputs, logits (N, classes) and labels (N,). Else outputs are all tensors, in a tuple.
"""
OwnLoss = Callable[[Any, Any], Tensor]
"""From a model's outputs, in its own structure, and the targets of a batch to the mean loss: the user's."""


@dataclass(frozen=True)
class Training:
    """The epoch that was kept, its accuracy on the validation data, and the mean loss of each epoch.

    Epochs count from 1. Epoch 0 is the start, which is kept if no epoch was better.
    ``accuracy`` is a fraction, None without validation data.
    """

    epoch: int
    accuracy: float | None
    losses: tuple[float, ...]


def cross_entropy(_: tuple[Tensor, ...], logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of a classifier."""
    return F.cross_entropy(logits, labels)


@dataclass(frozen=True)
class Task:
    """What to train, and by which loss.

    ``parameter_groups`` are those of torch.optim, with their own "lr" or "weight_decay" if given; by default
    weight decay applies to all parameters but vectors (biases, norms). ``after_step`` is called after every
    step. ``blame`` names the parameter that became invalid, if there is one. ``teacher`` is a network that
    the loss runs. Of a task that is no classifier's there is no accuracy: losses alone are compared.
    """

    module: nn.Module
    loss: Loss = cross_entropy
    parameter_groups: Sequence[dict[str, Any]] | None = None
    after_step: Callable[[], None] = lambda: None
    blame: Callable[[], str] = lambda: ""
    teacher: nn.Module | None = None
    is_classifier: bool = True
