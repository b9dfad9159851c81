"""Target: an engine's needs as data, from which placement decides which edges carry a quantizer."""

from dataclasses import dataclass

from zeropoint.numerics.scheme import Scheme

_INT8_BY_CHANNEL = Scheme(granularity="per-channel")
_INT8 = Scheme()
_UINT8 = Scheme(signed=False, symmetric=False)


@dataclass(frozen=True)
class Limit:
    """The only ``values`` of one of the Options with which an engine runs some methods, and the reason."""

    methods: tuple[str, ...]
    option: str
    values: tuple[object, ...]
    reason: str


_PER_CHANNEL = (None, "per-channel", "per-tensor")
NO_GROUPS = Limit(
    ("dynamic",), "weight_granularity", _PER_CHANNEL, "it needs one scale for each output there"
)
# Of other bits OpenVINO and the PyTorch compiler would make 8 as well: 44 dB where 4 bits have 25.
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
    """What an engine runs in int8, and on which terms. Families are those of ``zeropoint.graph.operators``.

    ``weighted``: families with int8 kernels that take an integer weight.
    ``inputs``: families without a weight that run in int8 when their inputs are quantized.
    ``outputs``: families that run in int8 only when their output, behind a fused activation, is quantized
    too.
    ``fused``: families of activations that the engine fuses between such an operator and its output
    quantizer.
    ``weights_alone``: weighted families whose inputs stay float: integer weights save size, not time.
    ``adds_before_rounding``: a convolution's result reaches a residual addition in full precision, so a
    quantizer on that side of the addition would only cost accuracy.
    ``cuts_before_adding``: a convolution's result needs a quantizer there, but is only cut to its range, and
    not rounded, where the sum is rounded itself.
    ``products``: the scheme of what is multiplied with another activation, as in attention; VNNI instructions
    multiply unsigned by signed integers, and two signed ones by way of a correction.
    ``pools_sums``: a residual addition that pooling alone reads, as at the end of a ResNet, is quantized for
    it, too.
    ``zero_in_middle``: whether affine 8-bit grids may have their zero at 128.
    ``processor``: the kind that these rules are for, one of ``zeropoint.targets.processor.PROCESSORS``.
    ``limits``: what of the methods and Options it cannot run at all, or only as something else.
    """

    name: str
    weighted: frozenset[str]
    inputs: frozenset[str]
    outputs: frozenset[str] = frozenset()
    fused: frozenset[str] = frozenset()
    weights_alone: frozenset[str] = frozenset()
    adds_before_rounding: bool = True
    cuts_before_adding: bool = False
    weights: Scheme = _INT8_BY_CHANNEL
    activations: Scheme = _UINT8
    products: Scheme = _INT8
    pools_sums: bool = False
    zero_in_middle: bool = True
    processor: str = "vnni"
    limits: tuple[Limit, ...] = ()

    def remark(self) -> str | None:
        """What the share of int8 of a quantized row does not explain, in words; None if there is nothing."""
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
                if any(value not in limit.values for value in values):
                    return limit.reason
        return None
