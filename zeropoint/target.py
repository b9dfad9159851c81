"""Target: an engine's needs as data, from which placement decides which edges carry a quantizer."""

from dataclasses import dataclass

from zeropoint.scheme import Scheme

_INT8_BY_CHANNEL = Scheme(granularity="per-channel")
_INT8 = Scheme()
_UINT8 = Scheme(signed=False, symmetric=False)


@dataclass(frozen=True)
class Target:
    """What an engine runs in int8, and on which terms. Families are those of ``zeropoint.operators``.

    ``weighted``: families with int8 kernels that take an integer weight.
    ``inputs``: families without a weight that run in int8 when their inputs are quantized.
    ``outputs``: families that run in int8 only when their output, behind a fused activation, is quantized
    too.
    ``fused``: families of activations that the engine fuses between such an operator and its output
    quantizer.
    ``adds_before_rounding``: a convolution's result reaches a residual addition in full precision, so a
    quantizer on that side of the addition would only cost accuracy.
    ``products``: the scheme of what is multiplied with another activation, as in attention; VNNI instructions
    multiply unsigned by signed integers, and two signed ones by way of a correction.
    """

    name: str
    weighted: frozenset[str]
    inputs: frozenset[str]
    outputs: frozenset[str] = frozenset()
    fused: frozenset[str] = frozenset()
    adds_before_rounding: bool = True
    weights: Scheme = _INT8_BY_CHANNEL
    activations: Scheme = _UINT8
    products: Scheme = _INT8
