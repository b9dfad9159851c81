"""Target: an engine's needs as data, from which placement decides which edges carry a quantizer."""

from dataclasses import dataclass

from zeropoint.numerics.scheme import Scheme

_INT8_BY_CHANNEL = Scheme(granularity="per-channel")
_INT8 = Scheme()
_UINT8 = Scheme(signed=False, symmetric=False)


@dataclass(frozen=True)
class Limit:
    """The ``values`` of an option that an engine supports with some methods, and why no others."""

    methods: tuple[str, ...]
    option: str
    values: tuple[object, ...]
    reason: str


_PER_CHANNEL = (None, "per-channel", "per-tensor")
STATIC_GROUPS = Limit(
    ("static", "static-best", "qat"),
    "weight_granularity",
    _PER_CHANNEL,
    "it takes groups where the inputs are quantized at run time",
)
NO_GROUPS = Limit(
    ("dynamic",), "weight_granularity", _PER_CHANNEL, "it needs one scale for each output there"
)
# OpenVINO and the PyTorch compiler would use 8 bits for any other number: 44 dB where 4 bits have 25.
AT_RUN_TIME = (
    Limit(
        ("dynamic",), "activation_symmetric", (None, False), "ranges that are found at run time are affine"
    ),
    Limit(("dynamic",), "activation_bits", (8,), "engines quantize to 8 bits at run time"),
    Limit(("dynamic",), "activation16", ((),), "engines quantize to 8 bits at run time"),
)


X86_ALONE = Limit(
    ("dynamic", "static", "static-best", "qat"),
    "processor",
    ("", "any", "avx2", "avx512", "vnni", "amx"),
    "the PyTorch compiler has int8 kernels for x86 processors alone",
)


@dataclass(frozen=True)
class Target:
    """What an engine runs in int8, and under which conditions.

    The names of families are those of ``zeropoint.graph.operators``.

    ``weighted``: families with int8 kernels that take an integer weight.
    ``inputs``: families without a weight that run in int8 when their inputs are quantized.
    ``outputs``: families that run in int8 only when their output, after a fused activation, is quantized
    too.
    ``outputs_anywhere``: the output of such a layer is quantized where it is the model's own, too.
    ``fused``: families of activations that the engine fuses between such an operator and its output
    quantizer.
    ``weights_alone``: weighted families whose inputs stay float: integer weights save size, not time.
    ``adds_before_rounding``: a convolution's result reaches a residual addition in full precision, so a
    quantizer on that side of the addition would only cost accuracy.
    ``cuts_before_adding``: a convolution's result needs a quantizer there, but if the sum is rounded too the
    engine only clips the result to the range and does not round it.
    ``products``: the scheme of activations that are multiplied by each other, as in attention; VNNI
    instructions multiply unsigned by signed integers, and need a correction for two signed ones.
    ``means_of_space``: integer kernels average over the axes after batch and channels alone.
    ``multiplies_free``: a product with a constant for each channel is part of the quantizer behind it, or of
    the loop before it, so that channels of unlike range are scaled in front of linear layers.
    ``floats_sums``: a sum in float takes about as long, so that sums become float where they make most noise.
    ``least_intensity``: a convolution of the model's inputs in front of a norm, as of patches of an image,
    is as fast in float if it does fewer multiply-accumulates for each value that it reads and writes.
    ``pools_sums``: a residual addition that only pooling reads, as at the end of a ResNet, is quantized too.
    ``quantizes_extremes``: a maximum or minimum over axes is wrong unless its input is quantized.
    ``zero_in_middle``: whether affine 8-bit grids may have their zero at 128.
    ``ranges_of_tensors``: whether a range that is found at run time is that of a whole tensor.
    ``ranges_of_rows``: whether it is an affine range of each row.
    ``run_time_group``: the number of inputs that have a range of their own at run time; None for a row, or a
    tensor.
    ``pairs_across_places``: whether kernels without VNNI pair weights of neighbouring places, too, where the
    number of input channels is odd.
    ``exact``: whether kernels add products in 32 bits on every processor, so that Arm's rules hold on all.
    ``processor``: the kind that these rules are for, one of ``zeropoint.targets.processor.PROCESSORS``.
    ``limits``: the values of Options that it cannot run with some methods.
    """

    name: str
    weighted: frozenset[str]
    inputs: frozenset[str]
    outputs: frozenset[str] = frozenset()
    outputs_anywhere: bool = False
    fused: frozenset[str] = frozenset()
    weights_alone: frozenset[str] = frozenset()
    adds_before_rounding: bool = True
    cuts_before_adding: bool = False
    weights: Scheme = _INT8_BY_CHANNEL
    activations: Scheme = _UINT8
    products: Scheme = _INT8
    means_of_space: bool = False
    multiplies_free: bool = False
    floats_sums: bool = False
    least_intensity: float = 0.0
    pools_sums: bool = False
    zero_in_middle: bool = True
    quantizes_extremes: bool = False
    ranges_of_tensors: bool = False
    ranges_of_rows: bool = False
    run_time_group: int | None = None
    pairs_across_places: bool = False
    exact: bool = False
    processor: str = "vnni"
    limits: tuple[Limit, ...] = ()

    def remark(self) -> str | None:
        """What a user should know of the int8 share of this target; None if there is nothing to say."""
        if not self.weights_alone:
            return None
        kinds = " and ".join(sorted(self.weights_alone))
        return (
            f"{self.name} computes {kinds} layers with integer weights and float activations: without VNNI,"
            " int8 activations are no faster there"
        )

    def refuses(self, method: str, settings: object) -> str | None:
        """Why this engine cannot run a method with ``settings``, Options or a Program; None if it can."""
        for limit in self.limits:
            if method in limit.methods:
                values = [getattr(settings, limit.option, limit.values[0])]  # a Program knows its bits alone
                rows = getattr(settings, "recipe", ())
                values += [value for row in rows if (value := getattr(row, limit.option, None)) is not None]
                if any(value not in limit.values for value in values if value != 32):  # which is float
                    return limit.reason
        return None
