"""The rules of placement, as rows: at which operators, when, what is quantized, and what that gains.

A rule is about operators of some kinds: families of ``graph.operators``, or the names of operators that
belong to none. Its check says why it does not apply, or None. Whether an engine runs something in int8 is
data of its Target, so a rule holds for every engine whose Target says so.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from zeropoint.numerics.scheme import Scheme
from zeropoint.targets import checks, sites
from zeropoint.targets.experts import KINDS as STACKED
from zeropoint.targets.sites import (
    CONVOLUTIONS,
    POOLING,
    RECURRENT_KINDS,
    Pair,
    Site,
    WeightPlace,
)


@dataclass(frozen=True)
class Rule:
    """A row: at operators of these ``kinds``, if ``check`` gives no reason against it, what is quantized.

    ``edges`` gives edges with their schemes, ``weights`` places of weights. ``late`` rules read what other
    rules have placed. ``effect`` is what it gains, with the date and machine where that was measured.
    ``optional``: a layer is all int8 without it, so that it does not explain why one stayed float.
    """

    name: str
    kinds: tuple[str, ...]
    check: Callable[[Site], str | None]
    effect: str
    edges: Callable[[Site], Iterable[tuple[Pair, Scheme]]] = lambda _: ()
    weights: Callable[[Site], Iterable[WeightPlace]] = lambda _: ()
    late: bool = False
    optional: bool = False


LAYERS = (*CONVOLUTIONS, "linear")
EXTREMES = (
    "amax", "amin", "max", "min",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
)  # fmt: skip
INTEL = "Intel Xeon with VNNI, November 2026"
AMD = "AMD EPYC with AVX2, November 2026"

EMBEDDING = (
    Rule(
        "embedding table",
        ("embedding", "embedding_bag"),
        checks.is_table,
        "a quarter of the size",
        weights=sites.its_table,
    ),
    Rule(
        "index of an embedding",
        ("embedding", "embedding_bag"),
        checks.never("an embedding looks up rows of integers, and there is nothing to multiply them with"),
        "none",
    ),
)

EXPERTS = (
    Rule(
        "matrices of experts",
        STACKED,
        checks.has_stacks,
        "a quarter of the size; the arithmetic stays float",
        weights=sites.its_stacks,
        optional=True,
    ),
)

OF_RECURRENT = (
    Rule(
        "matrices of a recurrent layer",
        RECURRENT_KINDS,
        checks.always,
        "a quarter of the size",
        weights=sites.its_matrices,
    ),
    Rule(
        "state of a recurrent layer",
        RECURRENT_KINDS,
        checks.never("the inside of a recurrent layer: its weights are unpacked when they are used"),
        "none",
    ),
)

STATIC = (
    Rule(
        "weight of a layer",
        LAYERS,
        checks.runs,
        "integer kernels, a quarter of the size",
        weights=sites.its_weight,
    ),
    Rule("input of a layer", LAYERS, checks.takes_integers, "integer kernels", sites.of_input),
    Rule(
        "layer kept apart",
        LAYERS,
        checks.is_kept_apart,
        "shows what fusing gains",
        sites.after_each,
        optional=True,
    ),
    Rule(
        "output of a layer",
        LAYERS,
        checks.needs_output,
        "ONNX Runtime and XNNPACK run a convolution in int8 only between quantizers",
        sites.after_fused,
        optional=True,
    ),
    Rule(
        "residual sum",
        ("add",),
        checks.sums_in_integers,
        f"1 to 2% on MobileNetV2 and V3 (openvino), 8% on ResNet-50 (torch): {INTEL}",
        sites.of_operands,
    ),
    Rule(
        "convolution's side of a sum",
        ("add",),
        checks.rounds_both,
        f"1 to 2% on MobileNetV2 and V3 (openvino): {INTEL}",
        sites.of_convolutions_side,
    ),
    Rule(
        "last sum, pooled",
        ("add",),
        checks.is_pooled,
        f"1.5% on ResNet-50 (openvino): {INTEL}",
        sites.of_pooled_sum,
        optional=True,
    ),
    Rule(
        "concatenation",
        ("cat",),
        checks.joins_in_integers,
        f"30% (torch) and 1% (openvino) on ShuffleNetV2; costs onnxruntime 5%: {INTEL}",
        sites.of_operands,
    ),
    Rule(
        "output of a sum or concatenation",
        ("add", "cat"),
        checks.gives_integers,
        f"int8 additions (executorch): {AMD}",
        sites.after_fused,
        optional=True,
    ),
    Rule(
        "pooling",
        POOLING,
        checks.averages,
        f"int8 pooling (onnxruntime); costs openvino 2 to 3% on MobileNetV3: {INTEL}",
        sites.of_operands,
    ),
    Rule(
        "output of pooling",
        POOLING,
        checks.averages_to_integers,
        "int8 pooling (onnxruntime, executorch)",
        sites.after_fused,
        optional=True,
    ),
    Rule(
        "product with a sigmoid",
        ("mul",),
        checks.gates_in_integers,
        f"10% at batch 1 and 19% at 25 on EfficientNetV2-S (onnxruntime): {AMD}",
        sites.of_operands,
        late=True,
        optional=True,
    ),
    Rule(
        "maximum or minimum over axes",
        EXTREMES,
        checks.reduces_on_grid,
        f"openvino is right: 45 dB, where its own pass left 4: {AMD}",
        sites.of_first_operand,
        optional=True,
    ),
    Rule(
        "softmax in attention",
        ("product",),
        checks.has_tensors,
        f"10 to 15% on ViT-B/16 and BERT-base (openvino): {INTEL}",
        sites.of_shares,
    ),
    Rule(
        "factor in attention",
        ("product",),
        checks.has_tensors,
        f"10 to 15% on ViT-B/16 and BERT-base (openvino): {INTEL}",
        sites.of_factors,
        late=True,
    ),
    Rule(
        "convolution's side of a sum, cut",
        ("add",),
        checks.is_cut,
        f"the simulation has OpenVINO's 36 dB on ResNet-20, and not 37.6: {AMD}",
        sites.in_16_bits,
        late=True,
        optional=True,
    ),
    *EXPERTS,
    *OF_RECURRENT,
    *EMBEDDING,
)

DYNAMIC = (
    Rule(
        "weight of a layer",
        ("linear",),
        checks.steers_nothing,
        "a quarter of the size",
        weights=sites.weight_of_dynamic,
    ),
    Rule(
        "input of a layer",
        ("linear",),
        checks.is_faster_at_run_time,
        "integer kernels",
        sites.of_input_itself,
    ),
    *EXPERTS,
    *OF_RECURRENT,
    Rule(
        "convolution",
        CONVOLUTIONS,
        checks.never(
            "dynamic quantization leaves a convolution untouched: it is for linear and recurrent layers"
        ),
        "none",
    ),
    *EMBEDDING,
)

WEIGHTS = (
    *(rule for rule in STATIC if rule.name in ("weight of a layer", "embedding table")),
    Rule(
        "input of a layer",
        LAYERS,
        checks.never("its inputs, since weight-only leaves activations float"),
        "none",
    ),
    *EXPERTS,
    *OF_RECURRENT,
    EMBEDDING[1],
)

OPTIONAL = frozenset(rule.name for rule in STATIC if rule.optional)
"""The names of the rules without which a layer is all int8 as well."""
