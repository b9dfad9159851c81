"""Held out: calibration items that nothing is fitted to, so that they can judge what was."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from zeropoint.data.batches import Around, FlatBatch, Loader, inputs_of, items_of

EVERY = 8  # one item of so many is held out


def divided(loader: Loader, *, by_item: bool) -> tuple[Loader, Loader]:
    """The batches to fit to, and those to judge by: of EVERY items the last, and of fewer the last of all.

    Items are the rows of batches; without ``by_item`` they are whole batches. Both parts hold inputs alone. A
    single item is both.
    """
    count = 0
    for inputs in inputs_of(loader):
        count += items_of(inputs) if by_item else 1
        if count >= EVERY:
            break
    if count == 1:
        return loader, loader
    place = min(count, EVERY) - 1
    return _Part(loader, place, False, by_item), _Part(loader, place, True, by_item)


@dataclass(frozen=True)
class _Part(Around):
    """The items at ``place`` among EVERY, or all others."""

    place: int
    is_held: bool
    by_item: bool

    def __iter__(self) -> Iterator[FlatBatch]:
        first = 0
        for inputs in inputs_of(self.loader):
            size = items_of(inputs) if self.by_item else 1
            numbers = torch.arange(first, first + size)
            chosen = (numbers % EVERY == self.place) == self.is_held
            first += size
            if chosen.all():
                yield FlatBatch(inputs, None)
            elif chosen.any():
                yield FlatBatch(_rows(inputs, chosen), None)


def _rows(inputs: tuple[Tensor, ...], chosen: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor[chosen] for tensor in inputs)
