"""Options: the knobs of quantization that a user may turn, with defaults that need no turning."""

import fnmatch
import re
from dataclasses import asdict, dataclass, replace
from typing import Literal

from zeropoint.errors import InputError, closest
from zeropoint.numerics.scheme import Granularity, Scheme
from zeropoint.targets.processor import NATIVE
from zeropoint.targets.processor import find as find_processor
from zeropoint.training.recipe import Recipe

ROUNDINGS = ("gptq", "adaround", "nearest")
GRANULARITIES = ("per-tensor", "per-channel", "per-group")
STEP_SIZES = ("lsq", "pact")
GROUP, SMALL_GROUP = 128, 32  # inputs: of a layer that has so many, and of others


@dataclass(frozen=True)
class Options:
    """How to quantize. None leaves a choice to the target engine's own rules.

    ``weight_bits`` are 2 to 8. ``activation_bits``, 2 to 16, are those of what is multiplied by weights or
    other activations; what is only added, averaged or put together has 8 at least. ``end_bits`` are those of
    the first and last layers, weights and inputs; None keeps both at 8 bits where weights have fewer than 4,
    and inputs at 8 at least in any case.
    ``weight_granularity`` ``per-group`` gives every ``group_size`` inputs to an output of a linear layer a
    scale of their own: by default 128, or 32 where it has fewer. Layers whose inputs are no multiple of it,
    and all others, have one scale for each channel.
    ``ranges`` names the estimator of activation ranges, ``weight_ranges`` that of weights: ``minmax`` or
    ``mse``; None for the first at 8 bits and the second below.
    ``rounding`` of weights is ``gptq``, which fits them and the biases to calibration data, ``adaround``,
    which goes on from there block by block, or ``nearest``.
    ``skip``, ``no_fuse`` and ``activation16`` are globs over module names: kept float; kept apart from batch
    norm and activation with a quantizer of their own; and given 16 bits for what goes in and comes out.
    ``processor`` is the kind of CPU that the result is to run on, one of
    ``zeropoint.targets.processor.PROCESSORS``; ``native`` becomes the name of this machine's.
    ``calibration_batches`` limits how much calibration data is read. The last four are for
    quantization-aware training: ``step_sizes`` of activations learn from all values (``lsq``) or from clipped
    ones alone (``pact``); ``distillation`` is the float network's share of the loss, labels having the rest,
    None for as much as it is right about; and ``progressive`` spends the first third of the epochs at twice
    the bits of weights.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    end_bits: int | None = None
    weight_symmetric: bool | None = None
    activation_symmetric: bool | None = None
    weight_granularity: Granularity | Literal["per-group"] | None = None
    group_size: int | None = None
    ranges: str = "mse"
    weight_ranges: str | None = None
    rounding: str = "gptq"
    skip: tuple[str, ...] = ()
    no_fuse: tuple[str, ...] = ()
    activation16: tuple[str, ...] = ()
    processor: str = NATIVE
    calibration_batches: int | None = None
    seed: int = 0
    training: Recipe = Recipe()  # noqa: RUF009  # it is frozen
    step_sizes: str = "lsq"
    distillation: float | None = None
    progressive: bool = False

    def __post_init__(self) -> None:
        from zeropoint.numerics.ranges import ESTIMATORS, WEIGHT_ESTIMATORS

        if self.ranges not in ESTIMATORS:
            raise InputError(f"unknown range estimator '{self.ranges}'; {closest(self.ranges, ESTIMATORS)}")
        if self.weight_ranges not in (None, *WEIGHT_ESTIMATORS):
            hint = closest(str(self.weight_ranges), WEIGHT_ESTIMATORS)
            raise InputError(f"unknown weight range estimator '{self.weight_ranges}'; {hint}")
        if self.rounding not in ROUNDINGS:
            raise InputError(f"unknown rounding '{self.rounding}'; {closest(self.rounding, ROUNDINGS)}")
        if self.calibration_batches is not None and self.calibration_batches < 1:
            raise InputError("calibration batches must be 1 or more")
        if self.step_sizes not in STEP_SIZES:
            hint = closest(self.step_sizes, STEP_SIZES)
            raise InputError(f"unknown learning of step sizes '{self.step_sizes}'; {hint}")
        if self.distillation is not None and not 0 <= self.distillation <= 1:
            raise InputError(f"a share of {self.distillation:g} for distillation is none; give 0 to 1")
        for bits in (self.weight_bits, self.end_bits):
            if bits is not None and not 2 <= bits <= 8:
                raise InputError(
                    f"{bits} bits cannot be quantized to; give 2 to 8, or up to 16 to activations"
                )
        if self.weight_granularity not in (None, *GRANULARITIES):
            given, valid = self.weight_granularity, ", ".join(GRANULARITIES)
            raise InputError(f"unknown granularity '{given}'; valid: {valid}")
        if self.group_size is not None and (self.group_size < 2 or self.weight_granularity != "per-group"):
            raise InputError("a group size is 2 or more, and goes with --weight-granularity per-group")
        object.__setattr__(self, "processor", find_processor(self.processor).name)
        self.activations(Scheme())  # raises for bits that there are not

    def weights(self, default: Scheme) -> Scheme:
        """The scheme of weights, or of a group: the target's ``default`` with what the user chose."""
        chosen = self.weight_granularity or default.granularity
        return replace(
            default,
            bits=self.weight_bits,
            symmetric=default.symmetric if self.weight_symmetric is None else self.weight_symmetric,
            granularity="per-channel" if chosen == "per-group" else chosen,
        )

    def group(self, inputs: int) -> int | None:
        """How many of the ``inputs`` to an output share a scale; None where they all do."""
        size = self.group_size or (GROUP if inputs >= GROUP else SMALL_GROUP)
        fits = self.weight_granularity == "per-group" and size < inputs and inputs % size == 0
        return size if fits else None

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
        for option in ("skip", "no_fuse", "activation16"):
            for pattern in getattr(self, option):
                if not any(matches(name, (pattern,)) for name in modules):
                    hint = closest(pattern, modules)
                    name = option.replace("_", "-")
                    raise InputError(f"--{name} '{pattern}' matches no module of the model; {hint}")

    def as_dict(self) -> dict[str, object]:
        """The options as plain values, for results and reports."""
        return asdict(self)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a module name matches one of the globs, itself or by a module it lies in."""
    parents = [".".join(name.split(".")[: i + 1]) for i in range(name.count(".") + 1)]
    return any(fnmatch.fnmatchcase(parent, pattern) for pattern in patterns for parent in parents)
