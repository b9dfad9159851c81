"""Loaders: the parts of a data set that zeropoint reads, and what every one of them needs."""

from dataclasses import dataclass, replace
from typing import Any

from zeropoint.data.batches import Apart, Loader, limit


@dataclass(frozen=True)
class Loaders:
    """The parts of one data set, each re-iterable, and all but ``train`` always in the same order.

    ``calibration`` needs no labels. ``validation`` is held out of ``train`` to choose the best epoch by, so
    that ``evaluation`` judges only what is finished; both are None if there is no training data.

    >>> data = zp.Loaders("mine", calibration=batches, evaluation=batches)
    >>> data.train is None
    True
    """

    name: str
    calibration: Loader
    evaluation: Loader
    train: Loader | None = None
    validation: Loader | None = None

    def parts(self) -> dict[str, Loader | None]:
        """The parts that methods read, by name."""
        return {"calibration": self.calibration, "train": self.train, "validation": self.validation}


def apart(loaders: Loaders, count: int) -> Loaders:
    """The same loaders, their batches split for a model of ``count`` inputs."""
    given = {**loaders.parts(), "evaluation": loaders.evaluation}
    parts: Any = {name: Apart(part, count) for name, part in given.items() if part is not None}
    return replace(loaders, **parts)


def limited(loaders: Loaders, n: int | None) -> Loaders:
    """The same loaders, each cut to ``n`` batches (None leaves them whole)."""
    return replace(
        loaders,
        calibration=limit(loaders.calibration, n),
        evaluation=limit(loaders.evaluation, n),
        train=None if loaders.train is None else limit(loaders.train, n),
        validation=None if loaders.validation is None else limit(loaders.validation, n),
    )
