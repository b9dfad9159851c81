"""Fold channel shuffles into the weights around them, as a ShuffleNet has them (Ma et al. 2018, figure 3).

A concatenation, a shuffle and a split only say which channel of which layer goes where. Where convolutions
read the result, their weights can take the channels in any order, and so can the weights of the layers that
made them give them: what is left is to copy the channels that one convolution reads side by side.
"""

import dataclasses
import itertools
import operator
from typing import Any, cast

import torch
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.operators import SPLITS, WEIGHTED, aten, facts
from zeropoint.graph.program import Program

Channel = tuple[Node, int]  # of the value of a node, along axis 1


def fold_shuffles(program: Program) -> Program:
    """The Program without the channel shuffles that its convolutions can do for it; the same outputs.

    On ShuffleNetV2 x0.5 in int8 that saves 18% of the time of OpenVINO's operators.
    """
    module = fx.copy(program.module)
    held = _held_channels(module)
    for moves in _regions(held):
        _fold(module, moves, held)
    fx.remove_unused(module)
    return dataclasses.replace(program, module=module)


def _held_channels(module: GraphModule) -> dict[Node, list[Channel]]:
    """For each node that only moves channels about: which channels of which other nodes it holds."""
    held: dict[Node, list[Channel]] = {}

    def channels(node: Node) -> list[Channel]:
        return held.get(node) or [(node, channel) for channel in range(_width(node))]

    for node in module.graph.nodes:
        if node.op != "call_function" or not _width(node):
            continue
        source: Any = node.args[0]
        if node.target is aten.cat.default and node.args[1:] in ((1,), (1 - _rank(node),)):
            held[node] = [channel for part in source for channel in channels(part)]
        elif shuffled := _shuffled(node):
            origin, groups = shuffled
            order = torch.arange(_width(node)).reshape(groups, -1).t().flatten().tolist()
            held[node] = [channels(origin)[channel] for channel in order]
        elif (
            node.target is operator.getitem
            and source.target in SPLITS
            and _axis(source) in (1, 1 - _rank(node))
        ):
            first = sum(part.shape[1] for part in source.meta["val"][: node.args[1]])
            held[node] = channels(source.args[0])[first : first + _width(node)]
    return held


def _width(node: Node) -> int:
    """The number of channels of an image-like value; 0 where it is none."""
    if not fx.is_float(node) or _rank(node) not in (3, 4):
        return 0
    width = node.meta["val"].shape[1]
    return width if isinstance(width, int) else 0


def _rank(node: Node) -> int:
    return int(node.meta["val"].dim())


def _axis(split: Node) -> object:
    return split.args[2] if len(split.args) > 2 else 0


def _shuffled(node: Node) -> tuple[Node, int] | None:
    """What a node shuffles the channels of, and in how many groups; None where it does something else."""
    if node.target is aten.channel_shuffle.default:
        return cast(tuple[Node, int], node.args)
    if node.target not in _VIEWS:
        return None
    swapped: Any = node.args[0]
    if swapped.target in (aten.contiguous.default, aten.clone.default):
        swapped = swapped.args[0]
    apart: Any = swapped.args[0] if swapped.target is aten.transpose.int else None
    if apart is None or {*swapped.args[1:]} != {1, 2} or apart.target not in _VIEWS:
        return None
    origin: Node = apart.args[0]
    if not _width(origin) or apart.meta["val"].dim() != _rank(origin) + 1:
        return None
    groups, each, *places = apart.meta["val"].shape[1:]
    before, after = origin.meta["val"].shape, node.meta["val"].shape
    same = list(before[2:]) == places == list(after[2:]) and after[1] == before[1] == groups * each
    return (origin, groups) if same else None


_VIEWS = {aten.view.default, aten.reshape.default, aten.unflatten.int, aten.flatten.using_ints}


def _regions(held: dict[Node, list[Channel]]) -> list[list[Node]]:
    """The moves in groups that share no channel with one another, in the order of the graph."""
    regions: list[tuple[set[Node], list[Node]]] = []
    for node, channels in held.items():
        layers, moves = {layer for layer, _ in channels}, [node]
        for other in [region for region in regions if region[0] & layers]:
            regions.remove(other)
            layers, moves = layers | other[0], other[1] + moves
        regions.append((layers, moves))
    return [moves for _, moves in regions]


def _fold(module: GraphModule, moves: list[Node], held: dict[Node, list[Channel]]) -> None:
    inside = {part for move in moves for part in _parts(move)}
    read = [move for move in moves if any(user not in inside for user in move.users)]
    readers = {move: [user for user in move.users if user not in inside] for move in read}
    layers = list(dict.fromkeys(layer for move in moves for layer, _ in held[move]))
    if not any(_shuffled(move) for move in moves):
        return
    if not all(_takes_any_order(user, move) for move in read for user in readers[move]):
        return
    place = _places(layers, [held[move] for move in read], inside)
    orders = {move: sorted(range(len(held[move])), key=lambda i: place[held[move][i]]) for move in read}
    runs = {move: _runs([held[move][i] for i in orders[move]], place) for move in read}
    cuts = {layer: {0, _width(layer)} for layer in layers}
    for layer, first, last in (run for several in runs.values() for run in several):
        cuts[layer] |= {first, last}
    pieces = {move: [piece for run in runs[move] for piece in _cut(run, cuts)] for move in read}
    if sum(map(len, pieces.values())) > len(inside):  # more copies than there were
        return
    for layer in layers:
        order = sorted(range(_width(layer)), key=lambda channel: place[layer, channel])
        if order != sorted(order):
            _give(module, layer, order)
    made = {layer: _split(layer, sorted(cuts[layer])) for layer in layers}
    for move in read:
        parts = [made[layer][first] for layer, first, _ in pieces[move]]
        with module.graph.inserting_before(move):
            joined = module.graph.call_function(aten.cat.default, (parts, 1)) if parts[1:] else parts[0]
        if parts[1:]:
            joined.meta = dict(move.meta)
        for user in readers[move]:
            user.replace_input_with(move, joined)
            _take(module, user, orders[move])


def _parts(move: Node) -> list[Node]:
    """The nodes that together are one move."""
    found = [move]
    shuffled = _shuffled(move)
    while (
        shuffled
        and found[-1].target is not aten.channel_shuffle.default
        and found[-1].args[0] is not shuffled[0]
    ):
        found.append(cast(Node, found[-1].args[0]))
    return [*found, cast(Node, move.args[0])] if move.target is operator.getitem else found


def _takes_any_order(user: Node, value: Node) -> bool:
    """Whether the weights of ``user``, or of all that read it, can be set to any order of channels."""
    if facts(user).by_channel or _is_depthwise(user):
        return bool(user.users) and all(_takes_any_order(reader, user) for reader in user.users)
    return _is_convolution(user, groups=1) and user.args[0] is value


def _is_depthwise(node: Node) -> bool:
    return _is_convolution(node, groups=_width(node)) and _width(node) == _width(cast(Node, node.args[0]))


def _is_convolution(node: Node, groups: int) -> bool:
    """Whether a node is a convolution of so many groups with weights of its own."""
    description = WEIGHTED.get(node.target)
    if description is None or description.family not in ("conv", "conv1d") or node.kwargs:
        return False
    tensors = [part for part in node.args[1:3] if isinstance(part, Node)]
    own = all(fx.is_stored(part, alone=True) for part in tensors)
    return own and groups == (node.args[6] if len(node.args) > 6 else 1)


def _chain(layer: Node) -> list[Node] | None:
    """The nodes back to the convolution that may give its channels in any order, the layer itself first."""
    chain = [layer]
    while facts(chain[-1]).by_channel or _is_depthwise(chain[-1]):
        chain.append(cast(Node, chain[-1].args[0]))
    alone = all(len(node.users) == 1 for node in chain[1:])
    return chain if alone and _is_convolution(chain[-1], groups=1) else None


def _places(
    layers: list[Node], read: list[list[Channel]], inside: set[Node]
) -> dict[Channel, tuple[int, int]]:
    """Where each channel will be: its layer's number, and its place there, beside those it is read with."""
    reader: dict[Channel, int] = {}
    for number, channels in enumerate(read):
        for channel in channels:
            reader.setdefault(channel, number)
    place: dict[Channel, tuple[int, int]] = {}
    for number, layer in enumerate(layers):
        order = list(range(_width(layer)))
        if _chain(layer) and inside.issuperset(layer.users):
            order.sort(key=lambda channel: reader.get((layer, channel), len(read)))
        place |= {(layer, channel): (number, position) for position, channel in enumerate(order)}
    return place


def _runs(channels: list[Channel], place: dict[Channel, tuple[int, int]]) -> list[tuple[Node, int, int]]:
    """Channels in the order of their places as stretches (layer, first, last + 1) of neighbours."""
    runs: list[tuple[Node, int, int]] = []
    for layer, channel in channels:
        position = place[layer, channel][1]
        if runs and runs[-1][0] is layer and runs[-1][2] == position:
            runs[-1] = (layer, runs[-1][1], position + 1)
        else:
            runs.append((layer, position, position + 1))
    return runs


def _cut(run: tuple[Node, int, int], cuts: dict[Node, set[int]]) -> list[tuple[Node, int, int]]:
    layer, first, last = run
    ends = sorted(cut for cut in cuts[layer] if first <= cut <= last)
    return [(layer, start, end) for start, end in itertools.pairwise(ends)]


def _split(layer: Node, cuts: list[int]) -> dict[int, Node]:
    """The parts of a layer's value between cuts, by the first channel of each."""
    if len(cuts) == 2:
        return {0: layer}
    graph, parts = layer.graph, {}
    sizes = [end - start for start, end in itertools.pairwise(cuts)]
    keep = {key: value for key, value in layer.meta.items() if key in ("nn_module_stack", "stack_trace")}
    with graph.inserting_after(layer):
        split = graph.call_function(aten.split_with_sizes.default, (layer, sizes, 1))
    split.meta = keep | {"val": list(layer.meta["val"].split(sizes, 1))}
    for index in reversed(range(len(sizes))):
        with graph.inserting_after(split):
            part = graph.call_function(operator.getitem, (split, index))
        part.meta = keep | {"val": split.meta["val"][index]}
        parts[cuts[index]] = part
    return parts


def _give(module: GraphModule, layer: Node, order: list[int]) -> None:
    """Has a layer give its channels in another order: place i holds the old ``order[i]``."""
    for node in _chain(layer) or ():
        if not facts(node).by_channel:
            _reorder(module, node, order, axis=0)


def _take(module: GraphModule, user: Node, order: list[int]) -> None:
    """Has a reader, and what reads it, take channels in another order: place i holds the old ``order[i]``."""
    if _is_convolution(user, groups=1):
        _reorder(module, user, order, axis=1)
        return
    if not facts(user).by_channel:
        _reorder(module, user, order, axis=0)
    for reader in user.users:
        _take(module, reader, order)


def _reorder(module: GraphModule, convolution: Node, order: list[int], axis: int) -> None:
    """Reorders the weight along an axis, and the bias with axis 0."""
    tensors = [part for part in convolution.args[1:3] if isinstance(part, Node)]
    for part in tensors[: 1 if axis else 2]:
        reordered = fx.tensor_of(module, part).index_select(axis, torch.tensor(order))
        fx.set_tensor(module, str(part.target), reordered, trainable=True)
        part.meta["val"] = reordered
