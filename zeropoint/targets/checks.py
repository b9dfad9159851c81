"""Checks of the rules of placement: why a rule does not apply at a site, or None if it does."""

from collections.abc import Callable
from typing import cast

from torch.fx import Node

from zeropoint.graph import edits as fx
from zeropoint.graph.choices import chooses
from zeropoint.graph.moves import before_moves
from zeropoint.graph.operators import EMBEDDINGS, aten, family, weighted
from zeropoint.targets.experts import stacks
from zeropoint.targets.sites import (
    CONVOLUTIONS,
    Site,
    averages_space,
    inside,
    intensity,
    is_normalized,
    is_unfused,
    kind_of,
    operands,
    stays_in_integers,
    weight_of,
)

NOT_READ = "no integer operator reads what is joined"
"""Why a concatenation stays float, though the engine joins integers."""


def runs(site: Site) -> str | None:
    """Whether the engine has integer kernels for the operator that save time, and rounding steers nothing."""
    kind, layer = kind_of(site.node), weighted(site.node)
    if kind in (site.target.weighted if layer else site.target.inputs):
        return (steers_nothing(site) or saves_time(site)) if layer else None
    return f"{'' if layer else 'no weights, and '}the rules of {site.target.name} run no '{kind}' in integers"


def steers_nothing(site: Site) -> str | None:
    """Whether rounding leaves what the network computes next as it is: a linear layer is no router.

    With a router in integers, a network of four experts had 30 dB, and 49 without (AMD EPYC with VNNI,
    November 2026). Convolutions choose among places, as a detector its boxes, of which the nearest are alike.
    """
    steers = kind_of(site.node) == "linear" and chooses(site.node)
    return "its outputs choose what is computed next, such as an expert" if steers else None


def saves_time(site: Site) -> str | None:
    """Whether integers save a layer more time than it takes to quantize its values.

    Swin V2 of random weights has 27.2 dB with its first convolution in float, and 24.6 without, in 0.98 of
    the time (onnxruntime; AMD EPYC with VNNI, December 2026).
    """
    node, target = site.node, site.target
    if kind_of(node) not in CONVOLUTIONS or before_moves(cast(Node, node.args[0])).op != "placeholder":
        return None
    if site.has_own_bits or not is_normalized(node) or intensity(node) >= target.least_intensity:
        return None
    few = "it does few products for each value that it reads or writes"
    return f"{target.name} is as fast in float there: {few}"


def takes_integers(site: Site) -> str | None:
    """Whether a layer of integer weights takes an integer input.

    Engines have no kernels for integer inputs and a scale for each group: they would be rounded for nothing,
    and ONNX Runtime would round such weights again, to one scale for all (28 dB of 38, November 2026).
    """
    if reason := runs(site):
        return reason
    if not site.asked(site.node).takes_integers:
        return "its inputs: the recipe keeps them float"
    if weight_of(site).group is not None:
        return "its inputs: no engine takes integers there to weights with a scale for each group"
    return is_faster(site)


def is_faster(site: Site) -> str | None:
    """Whether 8-bit inputs are faster than float ones; other bits are what the user asks for."""
    asked = site.options.layer(fx.module_name(site.node)).activation_bits
    if kind_of(site.node) in site.target.weights_alone and asked == 8:
        return f"its inputs: {site.target.name} is no faster with integers there on {site.target.processor}"
    return None


def is_faster_at_run_time(site: Site) -> str | None:
    """Whether 8-bit inputs, with ranges found at run time, are faster for a layer that may be rounded."""
    return steers_nothing(site) or is_faster(site)


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
    if weighted(site.node) and not site.asked(site.node).takes_integers:
        return "the recipe keeps its inputs float"
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
    made = [one for one in map(before_moves, operands(site.node)) if weighted(one)]
    is_made = any(family(one) in layers and site.asked(one).takes_integers for one in made)
    is_read = stays_in_integers(site.node, site, inputs=not is_made) and operands(site.node)
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


def gives_integers(site: Site) -> str | None:
    """Whether the engine adds or joins integers only if the result is quantized, too."""
    if reason := needs_output(site):
        return reason
    return (sums_in_integers if kind_of(site.node) == "add" else joins_in_integers)(site)


def has_tensors(site: Site) -> str | None:
    """Whether the operator works on computed tensors alone."""
    return runs(site) or (None if operands(site.node) else "one side is a constant")


def averages(site: Site) -> str | None:
    """Whether the engine averages over these axes in integers."""
    if reason := has_tensors(site):
        return reason
    if site.target.means_of_space and not averages_space(site.node):
        return f"{site.target.name} averages in integers over the axes of space alone"
    return None


def averages_to_integers(site: Site) -> str | None:
    """Whether it does so only if the result is quantized, too."""
    return averages(site) or needs_output(site)


def joins_in_integers(site: Site) -> str | None:
    """Whether a concatenation of computed tensors is among integer operators.

    If none reads it, as at a model's outputs, one grid for all parts would only cost accuracy: the scores of
    a detector, from 0 to 1 beside boxes in pixels, would all become 0.
    """
    if reason := has_tensors(site):
        return reason
    is_read = stays_in_integers(site.node, site, inputs=True)
    return None if is_read else NOT_READ


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
    is_read = stays_in_integers(site.node, site, inputs=True)
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
