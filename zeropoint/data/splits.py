"""Splits: which items of a data set calibrate, train, validate and evaluate, drawn at random by a seed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from zeropoint.data.loaders import Loaders
from zeropoint.errors import InputError

CALIBRATION = 256  # items at most, and at most a fifth of the data that they are drawn from


def split(
    name: str,
    evaluation: Any,
    train: Any = None,
    *,
    batch_size: int,
    seed: int,
    noun: str,
    how: str,
    augmented: Any = None,
    collate: Callable[[list[Any]], Any] | None = None,
    **facts: Any,
) -> Loaders:
    """The loaders of a data set, whose items are read when they are needed.

    With ``train``, evaluation reads all of ``evaluation``; ``train`` is split at random into a tenth for
    validation and the rest to train on, some of it to calibrate. Otherwise calibration is a random part of
    ``evaluation``, and evaluation the rest. ``seed`` draws all of this, and the order of each part, which
    mixes the classes: any first batches are a fair sample of them.

    ``noun`` says what an item is, ``how`` how it is prepared. ``augmented`` are the items of ``train`` as
    they are trained on, if that differs. ``collate`` makes a batch of a list of items. ``facts`` of the
    inputs are those that Loaders keep.

    Raises InputError if there are too few items to hold some out.
    """
    generator = torch.Generator().manual_seed(seed)

    def ordered(items: Any, indices: Sequence[int]) -> DataLoader[Any]:
        return DataLoader(Subset(items, indices), batch_size, collate_fn=collate)

    count = f"{len(evaluation):,} {noun}"
    if train is None:
        drawn = min(CALIBRATION, len(evaluation) // 5)
        calibration, rest = _drawn(len(evaluation), drawn, name, noun, generator)
        return Loaders(
            name,
            calibration=ordered(evaluation, calibration),
            evaluation=ordered(evaluation, rest),
            description=f"{count}{how}",
            **facts,
        )
    validation, rest = _drawn(len(train), len(train) // 10, name, noun, generator)
    picked, _ = _drawn(len(rest), min(CALIBRATION, len(rest) // 5), name, noun, generator)
    trained: Dataset[Any] = Subset(train if augmented is None else augmented, rest)
    return Loaders(
        name,
        calibration=ordered(train, [rest[index] for index in picked]),
        evaluation=ordered(evaluation, torch.randperm(len(evaluation), generator=generator).tolist()),
        train=DataLoader(trained, batch_size, shuffle=True, generator=generator, collate_fn=collate),
        validation=ordered(train, validation),
        description=f"{count} to evaluate and {len(train):,} to train on{how}",
        **facts,
    )


def parts_of(folder: Path) -> list[Path]:
    """The folders in which the classes of a data set are: to evaluate and to train on, or itself alone."""
    parts = [folder / "val", folder / "train"]
    return parts if all(part.is_dir() for part in parts) else [folder]


def check_classes(folder: Path, classes: Sequence[str], others: Sequence[str]) -> None:
    """Raises InputError if ``val`` and ``train`` have other classes."""
    if list(classes) != list(others):
        differing = sorted({*classes} ^ {*others})
        what = f"class {differing[0]} is in only one of" if differing else "the classes have other numbers in"
        raise InputError(f"{folder}: {what} train and val; make the classes equal")


def counted(classes: int) -> str:
    """The number of classes in words."""
    return f"{classes:,} class{'es' * (classes != 1)}"


def _drawn(
    count: int, drawn: int, name: str, noun: str, generator: torch.Generator
) -> tuple[list[int], list[int]]:
    """``drawn`` random indices below ``count``, and the others, both in random order."""
    if not drawn:
        raise InputError(f"{name} has only {count} {noun}, too few to hold some out; give more")
    order = torch.randperm(count, generator=generator).tolist()
    return order[:drawn], order[drawn:]
