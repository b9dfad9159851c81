"""Budget: what a user may lose or must not exceed, and what is to be as little as possible."""

import re
from dataclasses import dataclass

from zeropoint.errors import InputError, check_name
from zeropoint.measure.kept import MaxDrop

LATENCY, SIZE, LOSS = "latency", "size", "loss"
OBJECTIVES = (LATENCY, SIZE, LOSS)
SIZES = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
DURATIONS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """``max_drop``: what the first metric may lose to float32. ``min_sqnr``: of the outputs, in dB.

    ``max_size`` of the artefact, in bytes; ``max_latency`` of a call, in seconds; None for no limit.
    ``minimize`` is one of latency, size and loss, which is the noise of the outputs. ``frontier`` asks for
    the whole curve. Raises InputError for a budget that says nothing, or what no model can keep.

    >>> str(zp.Budget(max_drop=0.5, minimize="latency"))
    'the least latency with a drop of at most 0.5'
    """

    max_drop: str | float | None = None
    min_sqnr: float | None = None
    max_size: float | None = None
    max_latency: float | None = None
    minimize: str | None = None
    frontier: bool = False

    def __post_init__(self) -> None:
        _ = self.drop
        if self.minimize is not None:
            check_name("minimize", self.minimize, OBJECTIVES)
        for name, unit in (("min_sqnr", "dB"), ("max_size", "bytes"), ("max_latency", "seconds")):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                flag = f"--{name.replace('_', '-')}"
                raise InputError(f"{flag} {value:g} {unit} is met by no model; give a number above 0")
        if not (self.frontier or self.keeps_accuracy or self.limits or self.minimize):
            raise InputError(
                "there is no budget; give --max-drop or --min-sqnr, --max-size or --max-latency,"
                " or --frontier"
            )
        if self.minimize in (LATENCY, SIZE) and not (self.keeps_accuracy or self.frontier):
            least = "--max-drop 0.5 or --min-sqnr 30"
            raise InputError(f"the least {self.minimize} without a limit is of a useless model; add {least}")

    @property
    def drop(self) -> MaxDrop | None:
        """The limit of the metric's drop."""
        return MaxDrop.of(self.max_drop)

    @property
    def keeps_accuracy(self) -> bool:
        """Whether there is a limit of the metric or the SQNR."""
        return self.drop is not None or self.min_sqnr is not None

    @property
    def limits(self) -> dict[str, float]:
        """The limits of latency, in seconds, and of size, in bytes."""
        given = {LATENCY: self.max_latency, SIZE: self.max_size}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def objective(self) -> str:
        """What is made least: by default latency where accuracy has a limit, else the loss."""
        return self.minimize or (LATENCY if self.keeps_accuracy or self.frontier else LOSS)

    def __str__(self) -> str:
        what = "the whole curve" if self.frontier else f"the least {self.objective}"
        return f"{what} with {self.limits_text}" if self.limits_text else what

    @property
    def limits_text(self) -> str:
        """The limits in words; empty without any."""
        limits = []
        if self.drop is not None:
            limits.append(f"a drop of at most {self.drop}")
        if self.min_sqnr is not None:
            limits.append(f"an SQNR of at least {self.min_sqnr:g} dB")
        if self.max_size is not None:
            limits.append(f"at most {self.max_size / 1e6:g} MB")
        if self.max_latency is not None:
            limits.append(f"at most {self.max_latency * 1e3:g} ms")
        return " and ".join(limits)


def quantity(text: str, units: dict[str, float], option: str) -> float:
    """A number with one of the ``units``, as in 4MB or 3 ms, in the unit of 1.

    >>> quantity("4MB", SIZES, "--max-size")
    4000000.0
    """
    found = re.fullmatch(r"\s*([0-9.eE+-]+)\s*([A-Za-z]+)\s*", text)
    unit = found and {name.lower(): size for name, size in units.items()}.get(found[2].lower())
    try:
        if found and unit:
            return float(found[1]) * unit
    except ValueError:
        pass
    first = next(name for name in units if name not in ("B", "us"))
    raise InputError(f"{option} {text} is no quantity; give a number and {', '.join(units)}, as in 4{first}")
