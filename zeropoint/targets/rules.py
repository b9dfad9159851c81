"""The rules of placement, as rows: at which operators, when, what is quantized, and what that gains.

A rule is about operators of some kinds: families of ``graph.operators``, or the names of operators that
belong to none. Its check says why it does not apply, or None. Whether an engine runs something in int8 is
data of its Target, so a rule holds for every engine whose Target says so.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

from torch.fx import Node

from zeropoint.graph import edits as fx
from zeropoint.graph.moves import before_moves
from zeropoint.graph.operators import (
    EMBEDDINGS,
    aten,
    family,
    weighted,
)
from zeropoint.numerics.scheme import Scheme
from zeropoint.targets import sites
from zeropoint.targets.experts import KINDS as STACKED
from zeropoint.targets.experts import stacks
from zeropoint.targets.sites import (
    CONVOLUTIONS,
    POOLING,
    RECURRENT_KINDS,
    Pair,
    Site,
    WeightPlace,
    inside,
    is_unfused,
    kind_of,
    operands,
    stays_in_integers,
    weight_of,
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


# Checks: why not, or None.


def runs(site: Site) -> str | None:
    """Whether the engine has integer kernels for the operator."""
    kind, layer = kind_of(site.node), weighted(site.node)
    if kind in (site.target.weighted if layer else site.target.inputs):
        return None
    return f"{'' if layer else 'no weights, and '}the rules of {site.target.name} run no '{kind}' in integers"


def takes_integers(site: Site) -> str | None:
    """Whether a layer of integer weights takes an integer input.

    Engines have no kernels for integer inputs and a scale for each group: they would be rounded for nothing,
    and ONNX Runtime would round such weights again, to one scale for all (28 dB of 38, November 2026).
    """
    if reason := runs(site):
        return reason
    if weight_of(site).group is not None:
        return "its inputs: no engine takes integers there to weights with a scale for each group"
    return is_faster(site)


def is_faster(site: Site) -> str | None:
    """Whether 8-bit inputs are faster than float ones; other bits are what the user asks for."""
    asked = site.options.layer(fx.module_name(site.node)).activation_bits
    if kind_of(site.node) in site.target.weights_alone and asked == 8:
        return f"its inputs: {site.target.name} is no faster with integers there on {site.target.processor}"
    return None


def is_kept_apart(site: Site) -> str | None:
    """Whether the user wants a layer kept apart from the batch norm and activation after it."""
    if reason := runs(site):
        return reason
    return None if is_unfused(site.node, site.options) else "not asked for by --no-fuse"


def needs_output(site: Site) -> str | None:
    """Whether the engine runs the operator in int8 only if its output is quantized too."""
    if reason := runs(site):
        return reason
    if weighted(site.node) and is_unfused(site.node, site.options):
        return "kept apart by --no-fuse"
    if kind_of(site.node) not in site.target.outputs:
        return f"{site.target.name} needs no quantized output there"
    return None


def sums_in_integers(site: Site) -> str | None:
    """Whether an addition is among integer operators.

    A layer whose weights alone are integers counts as a reader only if an integer layer makes a side of the
    sum, as the last one of a convolutional network: sums between such layers would be rounded for nothing.
    """
    if reason := runs(site):
        return reason
    layers = site.target.weighted - site.target.weights_alone
    is_made = any(weighted(one) and family(one) in layers for one in map(before_moves, operands(site.node)))
    is_read = stays_in_integers(site.node, site.target, inputs=not is_made) and operands(site.node)
    return None if is_read else "no integer operator reads the sum, or one side is a constant"


def rounds_both(site: Site) -> str | None:
    """Whether the convolution that an addition is done in rounds its result before that."""
    if reason := sums_in_integers(site):
        return reason
    if not inside(site):
        return "no side comes from a layer that the addition is done in"
    if site.target.adds_before_rounding:
        return "one side comes in full precision from the layer that the addition is done in"
    return None


def is_cut(site: Site) -> str | None:
    """Whether the engine cuts the convolution's side to its range without rounding it."""
    if reason := rounds_both(site):
        return reason
    users = list(site.node.users)
    last = users[0] if len(users) == 1 and family(users[0]) == "relu" else site.node
    if not (site.target.cuts_before_adding and len(operands(site.node)) == 2):
        return f"{site.target.name} rounds there"
    if not all((last.name, user.name) in site.placed for user in last.users):
        return "not every reader of the sum takes integers"
    return None


def is_pooled(site: Site) -> str | None:
    """Whether a sum that only pooling reads is quantized."""
    return sums_in_integers(site) or (None if site.target.pools_sums else "no gain on this engine")


def has_tensors(site: Site) -> str | None:
    """Whether the operator works on computed tensors alone."""
    return runs(site) or (None if operands(site.node) else "one side is a constant")


def joins_in_integers(site: Site) -> str | None:
    """Whether a concatenation of computed tensors is among integer operators.

    If none reads it, as at a model's outputs, one grid for all parts would only cost accuracy: the scores of
    a detector, from 0 to 1 beside boxes in pixels, would all become 0.
    """
    if reason := has_tensors(site):
        return reason
    is_read = stays_in_integers(site.node, site.target, inputs=True)
    return None if is_read else "no integer operator reads what is joined"


def gates_in_integers(site: Site) -> str | None:
    """Whether integers times a sigmoid give integers, as in SiLU and squeeze-and-excitation."""
    if reason := has_tensors(site):
        return reason
    made = [before_moves(one) for one in operands(site.node)]
    values = [one for one in made if one.target is not aten.sigmoid.default]
    if len(values) != 1:
        return "it is no product of a value and a sigmoid"
    if values[0] not in site.carrying:
        return "what the sigmoid is multiplied by is float"
    is_read = all((site.node.name, user.name) in site.placed for user in site.node.users)
    return None if is_read else "not every reader of the product takes integers"


def reduces_on_grid(site: Site) -> str | None:
    """Whether the engine needs a quantized input for a maximum or minimum among integer operators."""
    if not site.target.quantizes_extremes:
        return f"{site.target.name} needs no quantizer there"
    is_read = stays_in_integers(site.node, site.target, inputs=True)
    return None if is_read else "no integer operator reads it"


def is_table(site: Site) -> str | None:
    """Whether only embeddings read the table."""
    table = cast(Node, site.node.args[0])
    readers = list(table.users)
    if not fx.is_stored(table) or any(r.target not in EMBEDDINGS or r.args[0] is not table for r in readers):
        return "its table is computed, or read by another operator"
    skipped = any(site.options.layer(fx.module_name(reader)).float for reader in readers)
    return "its table is read by a layer that is skipped" if skipped else None


def has_stacks(site: Site) -> str | None:
    """Whether the operator multiplies by a stack of matrices."""
    return None if stacks(site.node) else "it multiplies by no stack of matrices"


def never(reason: str) -> Callable[[Site], str | None]:
    """A check that always refuses."""

    def check(_: Site) -> str:
        return reason

    check.__doc__ = f"Never: {reason}."
    return check


def always(_: Site) -> None:
    """Always."""


LAYERS = (*CONVOLUTIONS, "linear")
EXTREMES = ("amax", "amin", "max", "min", "adaptive_max_pool1d", "adaptive_max_pool2d")
INTEL = "Intel Xeon with VNNI, November 2026"
AMD = "AMD EPYC with AVX2, November 2026"

EMBEDDING = (
    Rule(
        "embedding table",
        ("embedding", "embedding_bag"),
        is_table,
        "a quarter of the size",
        weights=sites.its_table,
    ),
    Rule(
        "index of an embedding",
        ("embedding", "embedding_bag"),
        never("an embedding looks up rows of integers, and there is nothing to multiply them with"),
        "none",
    ),
)

EXPERTS = (
    Rule(
        "matrices of experts",
        STACKED,
        has_stacks,
        "a quarter of the size; the arithmetic stays float",
        weights=sites.its_stacks,
        optional=True,
    ),
)

OF_RECURRENT = (
    Rule(
        "matrices of a recurrent layer",
        RECURRENT_KINDS,
        always,
        "a quarter of the size",
        weights=sites.its_matrices,
    ),
    Rule(
        "state of a recurrent layer",
        RECURRENT_KINDS,
        never("the inside of a recurrent layer: its weights are unpacked when they are used"),
        "none",
    ),
)

STATIC = (
    Rule(
        "weight of a layer",
        LAYERS,
        runs,
        "integer kernels, a quarter of the size",
        weights=sites.its_weight,
    ),
    Rule("input of a layer", LAYERS, takes_integers, "integer kernels", sites.of_input),
    Rule(
        "layer kept apart",
        LAYERS,
        is_kept_apart,
        "shows what fusing gains",
        sites.after_each,
        optional=True,
    ),
    Rule(
        "output of a layer",
        LAYERS,
        needs_output,
        "ONNX Runtime runs a convolution in int8 only between quantizers",
        sites.after_fused,
        optional=True,
    ),
    Rule(
        "residual sum",
        ("add",),
        sums_in_integers,
        f"1 to 2% on MobileNetV2 and V3 (openvino), 8% on ResNet-50 (torch): {INTEL}",
        sites.of_operands,
    ),
    Rule(
        "convolution's side of a sum",
        ("add",),
        rounds_both,
        f"1 to 2% on MobileNetV2 and V3 (openvino): {INTEL}",
        sites.of_convolutions_side,
    ),
    Rule(
        "last sum, pooled",
        ("add",),
        is_pooled,
        f"1.5% on ResNet-50 (openvino): {INTEL}",
        sites.of_pooled_sum,
        optional=True,
    ),
    Rule(
        "concatenation",
        ("cat",),
        joins_in_integers,
        f"30% (torch) and 1% (openvino) on ShuffleNetV2; costs onnxruntime 5%: {INTEL}",
        sites.of_operands,
    ),
    Rule(
        "pooling",
        POOLING,
        has_tensors,
        f"int8 pooling (onnxruntime); costs openvino 2 to 3% on MobileNetV3: {INTEL}",
        sites.of_operands,
    ),
    Rule(
        "output of pooling",
        POOLING,
        needs_output,
        "int8 pooling (onnxruntime)",
        sites.after_fused,
        optional=True,
    ),
    Rule(
        "product with a sigmoid",
        ("mul",),
        gates_in_integers,
        f"10% at batch 1 and 19% at 25 on EfficientNetV2-S (onnxruntime): {AMD}",
        sites.of_operands,
        late=True,
        optional=True,
    ),
    Rule(
        "maximum or minimum over axes",
        EXTREMES,
        reduces_on_grid,
        f"openvino is right: 45 dB, where its own pass left 4: {AMD}",
        sites.of_first_operand,
        optional=True,
    ),
    Rule(
        "softmax in attention",
        ("product",),
        has_tensors,
        f"10 to 15% on ViT-B/16 and BERT-base (openvino): {INTEL}",
        sites.of_shares,
    ),
    Rule(
        "factor in attention",
        ("product",),
        has_tensors,
        f"10 to 15% on ViT-B/16 and BERT-base (openvino): {INTEL}",
        sites.of_factors,
        late=True,
    ),
    Rule(
        "convolution's side of a sum, cut",
        ("add",),
        is_cut,
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
        always,
        "a quarter of the size",
        weights=sites.weight_of_dynamic,
    ),
    Rule("input of a layer", ("linear",), is_faster, "integer kernels", sites.of_input_itself),
    *EXPERTS,
    *OF_RECURRENT,
    Rule(
        "convolution",
        CONVOLUTIONS,
        never("dynamic quantization leaves a convolution untouched: it is for linear and recurrent layers"),
        "none",
    ),
    *EMBEDDING,
)

WEIGHTS = (
    *(rule for rule in STATIC if rule.name in ("weight of a layer", "embedding table")),
    Rule(
        "input of a layer",
        LAYERS,
        never("its inputs, since weight-only leaves activations float"),
        "none",
    ),
    *EXPERTS,
    *OF_RECURRENT,
    EMBEDDING[1],
)

OPTIONAL = frozenset(rule.name for rule in STATIC if rule.optional)
"""The names of the rules without which a layer is all int8 as well."""
