"""Loaders: the parts of a data set that zeropoint reads, and what every one of them needs."""

from dataclasses import dataclass, replace

from zeropoint.data.batches import Loader, limit
from zeropoint.errors import InputError
from zeropoint.models.source import Preprocessing


@dataclass(frozen=True)
class Loaders:
    """The parts of one data set, each re-iterable, and all but ``train`` always in the same order.

    ``calibration`` needs no labels. ``validation`` is held out of ``train`` to choose the best epoch by, so
    that ``evaluation`` judges only what is finished; both are None if there is no training data.
    ``description`` says what is read, and how it is prepared, in words.

    A report shows inputs. Images are drawn as ``mean`` and ``std`` of their channels tell, with which values
    from 0 to 1 were normalized; empty if they were not, or it is not known. Inputs (N, T) or (N, 1, T) of a
    ``sample_rate``, in Hz, are sounds. ``preprocessing`` is how image files became the inputs, None if they
    are no images, or were prepared in another way: a shipped folder prepares its images so. Raises InputError
    for values of other types.

    >>> data = zp.Loaders("mine", calibration=batches, evaluation=batches)
    >>> data.train is None
    True
    """

    name: str
    calibration: Loader
    evaluation: Loader
    train: Loader | None = None
    validation: Loader | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    sample_rate: int | None = None
    preprocessing: Preprocessing | None = None
    description: str = ""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, tuple(float(one) for one in value))
            except (TypeError, ValueError):
                raise InputError(f"{name} of the data is {value!r}; give a number for each channel") from None
        if len(self.mean) != len(self.std):
            raise InputError(f"the data has mean {self.mean} and std {self.std}; give both for each channel")
        rate = self.sample_rate
        if rate is not None and not (isinstance(rate, int) and rate > 0):
            raise InputError(f"sample_rate of the data is {rate!r}; give samples a second as an int")
        if not isinstance(self.preprocessing, Preprocessing | None):
            raise InputError(f"preprocessing of the data is {self.preprocessing!r}; give a Preprocessing")

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


def check_loaders(data: object) -> None:
    """Raises InputError for what is no Loaders."""
    if not isinstance(data, Loaders):
        raise InputError(
            f"the data is a {type(data).__name__}; give zp.Loaders(name, calibration, evaluation)"
        )
