"""Exports: ONNX for runtimes that are not run here. Their rules are Targets, as those of engines are."""

from dataclasses import dataclass

from zeropoint.engines import NAMES
from zeropoint.engines import target as engine_target
from zeropoint.errors import InputError, closest
from zeropoint.exports.operators import QNN, TENSORRT
from zeropoint.numerics.scheme import Scheme
from zeropoint.targets.processor import NATIVE
from zeropoint.targets.target import NO_GROUPS, Limit, Target


@dataclass(frozen=True)
class Export:
    """A runtime that reads ONNX with quantize/dequantize pairs.

    ``target``: where it wants quantizers. ``operators``: those of ONNX that it supports by its own list,
    ``source``. ``opset``: the newest that it reads. ``fixed``: whether all sizes must be numbers.
    ``symmetric``: whether every zero point must be 0. ``integer_biases``: whether biases are integers, too.
    """

    target: Target
    operators: frozenset[str]
    source: str
    opset: int
    fixed: bool = False
    symmetric: bool = False
    integer_biases: bool = False


_STATIC = ("static", "static-best", "qat")
_NO_DYNAMIC = Limit(
    ("dynamic", "weight-only", "bf16"), "weight_bits", (0,), "it takes ranges from calibration"
)
_SIGNED = Scheme(signed=True, symmetric=True)
EXPORTS = {
    "tensorrt": Export(
        Target(
            name="tensorrt",
            weighted=frozenset({"conv", "conv_transpose", "linear"}),
            # An addition is fused into the convolution before it if its other operand is quantized.
            inputs=frozenset({"add", "avg_pool", "mean", "product"}),
            activations=_SIGNED,
            products=_SIGNED,
            limits=(
                _NO_DYNAMIC,
                NO_GROUPS,
                Limit(_STATIC, "weight_symmetric", (None, True), "TensorRT's zero points are all 0"),
                Limit(_STATIC, "activation_symmetric", (None, True), "TensorRT's zero points are all 0"),
                Limit(_STATIC, "activation_bits", (8,), "TensorRT has integers of 8 bits for activations"),
                Limit(_STATIC, "weight_bits", (8,), "TensorRT has integers of 8 bits for both operands"),
                Limit(_STATIC, "activation16", ((),), "TensorRT has integers of 8 bits for activations"),
            ),
        ),
        TENSORRT,
        "onnx-tensorrt, docs/operators.md, of TensorRT 10.0",
        opset=20,
        symmetric=True,
    ),
    "qnn": Export(
        Target(
            name="qnn",
            weighted=frozenset({"conv", "conv1d", "conv_transpose", "linear"}),
            # Its integer kernels read and write integers: what has no quantizer runs on another device.
            inputs=frozenset({"add", "mul", "cat", "avg_pool", "mean", "product"}),
            outputs=frozenset({"conv", "conv1d", "conv_transpose", "linear", "avg_pool", "mean"}),
            fused=frozenset({"relu"}),
            adds_before_rounding=False,
            limits=(
                _NO_DYNAMIC,
                NO_GROUPS,
                Limit(_STATIC, "weight_symmetric", (None, True), "QNN's scales of channels are symmetric"),
                Limit(
                    _STATIC, "activation_bits", (8, 16), "QNN has integers of 8 and 16 bits for activations"
                ),
                Limit(_STATIC, "weight_bits", (8,), "QNN's weights have 8 bits here"),
            ),
        ),
        QNN,
        "onnxruntime-qnn, op_builder_factory.cc, of March 2026",
        opset=21,
        fixed=True,
        integer_biases=True,
    ),
}


def find(name: str) -> Export:
    """The Export of that name; raises InputError if there is none."""
    if name not in EXPORTS:
        raise InputError(f"unknown export '{name}'; {closest(name, EXPORTS)}")
    return EXPORTS[name]


def target(name: str, processor: str = NATIVE) -> Target:
    """The placement rules of an engine for a kind of processor, or of an export.

    Raises InputError for an unknown name.
    """
    if name in EXPORTS:
        return EXPORTS[name].target
    if name not in NAMES:
        raise InputError(f"unknown target '{name}'; {closest(name, (*NAMES, *EXPORTS))}")
    return engine_target(name, processor)
