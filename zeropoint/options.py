"""Options: the knobs of quantization that a user may turn, with defaults that need no turning."""

import fnmatch
import re
from dataclasses import asdict, dataclass, replace

from zeropoint.errors import InputError, closest
from zeropoint.scheme import Granularity, Scheme

ROUNDINGS = ("gptq", "adaround", "nearest")


@dataclass(frozen=True)
class Options:
    """How to quantize. None leaves a choice to the target engine's own rules.

    ``activation_bits`` are those of what is multiplied by weights or other activations; what is only added,
    averaged or put together has 8 at least. ``end_bits`` are those of the first and last layers, weights and
    inputs; None keeps both at 8 bits where weights have fewer than 4, and inputs at 8 in any case.
    ``ranges`` names the estimator of activation ranges, ``weight_ranges`` that of weights: ``minmax`` or
    ``mse``; None for the first at 8 bits and the second below.
    ``rounding`` of weights is ``gptq``, which fits them and the biases to calibration data, ``adaround``,
    which goes on from there block by block, or ``nearest``.
    ``skip`` and ``no_fuse`` are globs over module names: kept float, and kept apart from batch norm and
    activation with a quantizer of their own. ``calibration_batches`` limits how much calibration data is
    read. The last three are for quantization-aware training.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    end_bits: int | None = None
    weight_symmetric: bool | None = None
    activation_symmetric: bool | None = None
    weight_granularity: Granularity | None = None
    ranges: str = "mse"
    weight_ranges: str | None = None
    rounding: str = "gptq"
    skip: tuple[str, ...] = ()
    no_fuse: tuple[str, ...] = ()
    calibration_batches: int | None = None
    epochs: int = 3
    learning_rate: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        from zeropoint.ranges import ESTIMATORS, WEIGHT_ESTIMATORS

        if self.ranges not in ESTIMATORS:
            raise InputError(f"unknown range estimator '{self.ranges}'; {closest(self.ranges, ESTIMATORS)}")
        if self.weight_ranges not in (None, *WEIGHT_ESTIMATORS):
            hint = closest(str(self.weight_ranges), WEIGHT_ESTIMATORS)
            raise InputError(f"unknown weight range estimator '{self.weight_ranges}'; {hint}")
        if self.rounding not in ROUNDINGS:
            raise InputError(f"unknown rounding '{self.rounding}'; {closest(self.rounding, ROUNDINGS)}")
        if self.calibration_batches is not None and self.calibration_batches < 1:
            raise InputError("calibration batches must be 1 or more")
        if self.epochs < 1 or self.learning_rate <= 0:
            raise InputError("epochs and learning rate must be positive")
        if self.end_bits is not None:
            Scheme(self.end_bits)
        for choose in (self.weights, self.activations):
            choose(Scheme())  # raises for bits or a granularity that there is not

    def weights(self, default: Scheme) -> Scheme:
        """The scheme of weights: the target's ``default`` with what the user chose."""
        return replace(
            default,
            bits=self.weight_bits,
            symmetric=default.symmetric if self.weight_symmetric is None else self.weight_symmetric,
            granularity=self.weight_granularity or default.granularity,
        )

    def activations(self, default: Scheme) -> Scheme:
        """The scheme of activations: the target's ``default`` with what the user chose."""
        symmetric = default.symmetric if self.activation_symmetric is None else self.activation_symmetric
        return replace(default, bits=self.activation_bits, symmetric=symmetric)

    @property
    def bits(self) -> str:
        """The bits of weights and activations, as in W4A8."""
        return f"W{self.weight_bits}A{self.activation_bits}"

    def at(self, bits: str) -> "Options":
        """The options with other bits, given as in W4A8. Raises InputError for what is written otherwise."""
        if not (match := re.fullmatch(r"[Ww](\d+)[Aa](\d+)", bits.strip())):
            raise InputError(
                f"'{bits}' is no number of bits; write W4A8 for 4-bit weights, 8-bit activations"
            )
        return replace(self, weight_bits=int(match[1]), activation_bits=int(match[2]))

    def check_patterns(self, modules: list[str]) -> None:
        """Raises InputError for a pattern that matches none of the model's modules: most likely a slip."""
        for option, patterns in (("skip", self.skip), ("no-fuse", self.no_fuse)):
            for pattern in patterns:
                if not any(matches(name, (pattern,)) for name in modules):
                    hint = closest(pattern, modules)
                    raise InputError(f"--{option} '{pattern}' matches no module of the model; {hint}")

    def as_dict(self) -> dict[str, object]:
        """The options as plain values, for results and reports."""
        return asdict(self)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a module name matches one of the globs, itself or by a module it lies in."""
    parents = [".".join(name.split(".")[: i + 1]) for i in range(name.count(".") + 1)]
    return any(fnmatch.fnmatchcase(parent, pattern) for pattern in patterns for parent in parents)
