"""Randomness: every epoch has its own random states, so that a training can continue inside it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from zeropoint.data.batches import Loader


@contextmanager
def kept() -> Iterator[None]:
    """Restores the random states at the end of the block."""
    before = states()
    try:
        yield
    finally:
        restore(before)


def begin(seed: int, epoch: int, loader: Loader) -> None:
    """Sets the random states, those of the loader's generators among them, to an epoch's own."""
    (own,) = np.random.SeedSequence([seed, epoch]).generate_state(1)
    random.seed(int(own))
    np.random.seed(int(own))
    torch.manual_seed(int(own))
    if isinstance(loader, DataLoader):
        for holder in (loader, loader.sampler, loader.batch_sampler):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(int(own))


def states() -> dict[str, Any]:
    """The random states of Python, NumPy and PyTorch, as tensors and plain values."""
    kind, keys, *rest = np.random.get_state()
    found: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.array(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def restore(found: dict[str, Any]) -> None:
    """Sets the random states to earlier ones."""
    random.setstate(found["python"])
    kind, keys, *rest = found["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(found["torch"])
    if "cuda" in found and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(found["cuda"])
