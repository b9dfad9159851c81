"""Descent: the gradient steps that passes without labels take, and how many items each of them has."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from zeropoint.graph import edits as fx

BATCH = 32  # items a step, at most
ACTIVATIONS = 1 << 30  # bytes of values that a step keeps for its gradients, at most about


def items_a_step(module: GraphModule) -> int:
    """As many as keep what a graph computes for them within ACTIVATIONS."""
    return max(2, min(BATCH, ACTIVATIONS // max(kept_bytes(module), 1)))


def kept_bytes(module: GraphModule) -> int:
    """The bytes of all values that a graph computes for one item, which its gradients need."""
    return sum(map(fx.item_bytes, module.graph.nodes))


class Descent:
    """So many steps of Adam (Kingma and Ba 2015), whose rates fall by half a cosine."""

    def __init__(self, parameter_groups: list[dict[str, Any]], steps: int) -> None:
        self._adam = torch.optim.Adam(parameter_groups)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._adam, steps)

    def step(self, loss: Tensor) -> bool:
        """Takes a step down the loss; False, and none taken, where that is not finite."""
        if not loss.isfinite():
            return False
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        self._schedule.step()
        return True

    def state_dict(self) -> dict[str, Any]:
        """How far it has got, as optimizers and schedules tell it."""
        return {"adam": self._adam.state_dict(), "schedule": self._schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self._adam.load_state_dict(state["adam"])
        self._schedule.load_state_dict(state["schedule"])
