"""Loaders: the parts of a data set that zeropoint reads, and what every one of them needs."""

from dataclasses import dataclass, replace

from zeropoint.data.batches import Loader, limit


@dataclass(frozen=True)
class Loaders:
    """The parts of one data set, each re-iterable, and all but ``train`` always in the same order.

    ``calibration`` needs no labels. ``validation`` is held out of ``train`` to choose the best epoch by, so
    that ``evaluation`` judges only what is finished; both are None if there is no training data.
    ``description`` says what is read, and how it is prepared, in words.

    >>> data = zp.Loaders("mine", calibration=batches, evaluation=batches)
    >>> data.train is None
    True
    """

    name: str
    calibration: Loader
    evaluation: Loader
    train: Loader | None = None
    validation: Loader | None = None
    description: str = ""

    def parts(self) -> dict[str, Loader | None]:
        """The parts that methods read, by name."""
        return {"calibration": self.calibration, "train": self.train, "validation": self.validation}


def limited(loaders: Loaders, n: int | None) -> Loaders:
    """The same loaders, each cut to ``n`` batches (None leaves them whole)."""
    return replace(
        loaders,
        calibration=limit(loaders.calibration, n),
        evaluation=limit(loaders.evaluation, n),
        train=None if loaders.train is None else limit(loaders.train, n),
        validation=None if loaders.validation is None else limit(loaders.validation, n),
    )
