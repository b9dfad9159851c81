"""Options: the knobs of quantization that a user may turn, with defaults that need no turning."""

import functools
import re
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

from msgspec import Meta

from zeropoint.errors import Count, InputError, Share, check_fields, check_name
from zeropoint.targets.processor import NATIVE
from zeropoint.targets.processor import find as find_processor
from zeropoint.targets.recipe import (
    EMBEDDINGS,
    FIRST_AND_LAST,
    GRANULARITIES,
    ActivationBits,
    GroupSize,
    Recipe,
    Row,
    WeightBits,
    check_patterns,
    merged,
    plain,
)
from zeropoint.training.options import TrainingOptions

ROUNDINGS = ("gptq", "adaround", "nearest")
STEP_SIZES = ("lsq", "pact")
END_BITS_BELOW = 4  # bits of weights at which the first and last layers keep 8 of their own


@dataclass(frozen=True)
class Options:
    """How to quantize. None leaves a choice to the target engine's own rules.

    ``weight_bits`` are 2 to 8. ``activation_bits``, 2 to 16, are the bits of activations that are multiplied
    by weights or by other activations; activations that are only added, averaged or concatenated have at
    least 8. ``end_bits`` are the bits of weights and inputs of the first and last layers; None means 8 bits
    for their weights if other weights have fewer than 4, and at least 8 bits for their inputs.
    ``eight_bit_share`` is the share of the multiply-accumulates, from 0 to 1, that ``static`` lets read 8-bit
    inputs where fewer bits are asked for and add the most noise to the outputs; 0 for none.
    ``weight_granularity`` ``per-group`` gives every ``group_size`` inputs of a linear layer a scale of their
    own: by default 128 inputs, or 32 if the layer has fewer than 128. A layer whose number of inputs is not
    a multiple of it, and any other layer, has one scale per output channel.
    ``ranges`` names the estimator of activation ranges, ``weight_ranges`` that of weights: ``minmax`` or
    ``mse``; None for the first at 8 bits and the second below.
    ``rounding`` of weights is ``gptq``, which fits them and the biases to calibration data, ``adaround``,
    which goes on from there block by block, or ``nearest``.
    ``recipe`` are rows of (which layers, what scheme), of which later ones override earlier ones and the
    values above; ``skip`` and ``activation16`` override them.
    ``skip``, ``no_fuse`` and ``activation16`` are globs over module names: kept float; not fused with batch
    norm and activation, with a quantizer of their own; and given 16-bit inputs and outputs.
    ``processor`` is the kind of CPU that the result is to run on, one of
    ``zeropoint.targets.processor.PROCESSORS``; ``native`` becomes the name of this machine's.
    ``calibration_batches`` is the most calibration batches that are read. The last four are for
    quantization-aware training: ``step_sizes`` of activations learn from all values (``lsq``) or from clipped
    ones alone (``pact``); ``distillation`` is the float network's share of the loss, from 0 to 1, None for
    its accuracy on training data; ``progressive`` trains the first third of the epochs with twice the bits
    of weights.

    >>> zp.Options(weight_bits=4, skip=("head",)).bits
    'W4A8'
    """

    weight_bits: WeightBits = 8
    activation_bits: ActivationBits = 8
    end_bits: WeightBits | None = None
    eight_bit_share: Share = 0.1
    weight_symmetric: bool | None = None
    activation_symmetric: bool | None = None
    weight_granularity: Literal["per-tensor", "per-channel", "per-group"] | None = None
    group_size: GroupSize | None = None
    ranges: str = "mse"
    weight_ranges: str | None = None
    rounding: str = "gptq"
    recipe: Recipe = ()
    skip: tuple[str, ...] = ()
    no_fuse: tuple[str, ...] = ()
    activation16: tuple[str, ...] = ()
    processor: str = NATIVE
    calibration_batches: Count | None = None
    seed: Annotated[int, Meta(ge=0)] = 0
    training: TrainingOptions = TrainingOptions()  # noqa: RUF009  # it is frozen
    step_sizes: str = "lsq"
    distillation: Share | None = None
    progressive: bool = False

    def __post_init__(self) -> None:
        from zeropoint.numerics.ranges import ESTIMATORS, WEIGHT_ESTIMATORS

        for name in ("skip", "no_fuse", "activation16"):
            if isinstance(globs := getattr(self, name), str):
                raise InputError(f"{name} is the text '{globs}'; give a tuple of globs, as in ('{globs}',)")
        check_name("ranges", self.ranges, ESTIMATORS)
        if self.weight_ranges is not None:
            check_name("weight_ranges", self.weight_ranges, WEIGHT_ESTIMATORS)
        check_name("rounding", self.rounding, ROUNDINGS)
        check_name("step_sizes", self.step_sizes, STEP_SIZES)
        if self.weight_granularity is not None:
            check_name("weight_granularity", self.weight_granularity, GRANULARITIES)
        check_fields(self)
        object.__setattr__(self, "processor", find_processor(self.processor).name)
        _ = self.rows  # raises for what is not supported

    @functools.cached_property
    def rows(self) -> Recipe:
        """The whole recipe: what the other options say in rows, with ``recipe`` among them.

        The first and last layers have 8-bit weights if other weights have fewer than END_BITS_BELOW bits, and
        inputs of at least 8 bits. Embeddings have 8-bit weights: they are the start of a network, and most
        of the size of a small language model.
        """
        few = self.weight_bits < END_BITS_BELOW
        return (
            Row(
                "*",
                self.weight_bits,
                self.activation_bits,
                weight_symmetric=self.weight_symmetric,
                activation_symmetric=self.activation_symmetric,
                weight_granularity=self.weight_granularity,
                group_size=self.group_size,
            ),
            Row(
                FIRST_AND_LAST,
                weight_bits=self.end_bits or (8 if few else None),
                activation_bits=self.end_bits or max(8, self.activation_bits),
            ),
            Row(EMBEDDINGS, weight_bits=self.end_bits or 8),
            *self.recipe,
            *(Row(pattern, float=True) for pattern in self.skip),
            *(Row(pattern, activation_bits=16, output_bits=16) for pattern in self.activation16),
        )

    def layer(self, module: str, *places: str) -> Row:
        """What is asked for the layer of this module name, at these places of the network."""
        return merged(self.rows, module, places)

    @property
    def bits(self) -> str:
        """The bits of weights and activations, as in W4A8."""
        return f"W{self.weight_bits}A{self.activation_bits}"

    def at(self, bits: str) -> "Options":
        """The options with other bits, written like W4A8; raises InputError for any other form."""
        if not (match := re.fullmatch(r"[Ww](\d+)[Aa](\d+)", bits.strip())):
            raise InputError(
                f"'{bits}' is no number of bits; write W4A8 for 4-bit weights, 8-bit activations"
            )
        return replace(self, weight_bits=int(match[1]), activation_bits=int(match[2]))

    def check_patterns(self, modules: list[str]) -> None:
        """Raises InputError for a pattern that matches none of the model's modules: most likely a slip."""
        for option in ("skip", "no_fuse", "activation16"):
            rows = [Row(pattern) for pattern in getattr(self, option)]
            check_patterns(rows, modules, f"--{option.replace('_', '-')}")
        check_patterns(self.recipe, modules, "the recipe's row")

    def as_dict(self) -> dict[str, object]:
        """The options as plain values, for results and reports."""
        values = asdict(self)
        recipe = plain(values.pop("recipe") and self.recipe)
        return values | ({"recipe": recipe} if recipe else {})
