"""Mixtures of experts of transformers, exported as batched products.

By default they multiply groups of tokens of sizes that the data decide, by an operator that no engine has. By
batches each token is multiplied by the matrices of its own experts (transformers, integrations/moe.py, 5.23).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_CHOICE = "_experts_implementation"


@contextmanager
def batched_experts(model: nn.Module) -> Iterator[None]:
    """While a model is exported: its experts are computed by batched products."""
    configs = {id(config): config for part in model.modules() if (config := getattr(part, "config", None))}
    before = [(config, chosen) for config in configs.values() if (chosen := getattr(config, _CHOICE, None))]
    for config, _ in before:
        setattr(config, _CHOICE, "batched_mm")
    try:
        yield
    finally:
        for config, chosen in before:
            setattr(config, _CHOICE, chosen)
