"""Randomness: every epoch has its own random states, so that a training can continue inside it."""

import hashlib
import itertools
import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zeropoint.data.batches import Loader, first_batch, split
from zeropoint.torch_private.trees import tree_leaves
from zeropoint.training.checkpoint import update_values


@contextmanager
def kept() -> Iterator[None]:
    """Restores the random states at the end of the block."""
    before = states()
    try:
        yield
    finally:
        restore(before)


def begin(seed: int, epoch: int, loader: Loader) -> None:
    """Sets the random states, those of the loader's own generators among them, to an epoch's own."""
    (own,) = map(int, np.random.SeedSequence([seed, epoch]).generate_state(1))
    random.seed(own)
    np.random.seed(own)
    torch.manual_seed(own)
    for generator in _generators(loader):
        if isinstance(generator, torch.Generator):
            generator.manual_seed(own)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = type(generator.bit_generator)(own).state
        else:
            generator.seed(own)


_Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
_OPAQUE = (Tensor, np.ndarray, nn.Module, ModuleType, type, str, bytes)  # hold no generators, or none of data
MOST_OBJECTS, MOST_ITEMS = (
    10_000,
    100,
)  # that are looked at, the latter of a container: data may be a long list


def _generators(loader: Loader) -> list[_Generator]:
    """The generators that a loader, the loaders it wraps, their samplers and data sets have as attributes."""
    found, seen, waiting = [], set[int](), deque[Any]([loader])
    while waiting and len(seen) < MOST_OBJECTS:
        one = waiting.popleft()
        if id(one) in seen or isinstance(one, _OPAQUE):
            continue
        seen.add(id(one))
        if isinstance(one, _Generator):
            found.append(one)
        elif isinstance(one, dict | list | tuple):
            values = one.values() if isinstance(one, dict) else one
            waiting.extend(itertools.islice(values, MOST_ITEMS))
        else:
            waiting.extend(getattr(one, "__dict__", {}).values())
    return found


def fingerprint(seed: int, loader: Loader) -> str:
    """A hash of the first batch of the first epoch; empty if it is another one every time it is read."""
    found = set()
    with kept():
        for _ in range(2):
            begin(seed, 1, loader)
            batch = split(first_batch(loader))
            digest = hashlib.sha256()
            update_values(digest, (*batch.inputs, *tree_leaves(batch.targets)))
            found.add(digest.hexdigest())
    return found.pop() if len(found) == 1 else ""


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
