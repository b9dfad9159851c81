"""Kernels: the time that an engine's own profile gives each layer."""

from collections.abc import Sequence
from pathlib import Path

from torch.fx import Node

from zeropoint import engines
from zeropoint.graph.program import Program

CALLS = 30  # that a profile is the median of


def kernel_seconds(
    program: Program, engine: str, path: Path, layers: Sequence[Node], threads: int
) -> dict[str, float]:
    """By the name of its node, the seconds of each layer's kernels in an artefact of the ``program``.

    ``layers`` are in the order of the network. Empty for an engine that does not time its kernels.
    """
    layer_seconds = engines.find(engine).layer_seconds
    return {} if layer_seconds is None else _by_layer(layer_seconds(program, path, threads, CALLS), layers)


def _by_layer(kernels: list[tuple[float, tuple[str, ...]]], layers: Sequence[Node]) -> dict[str, float]:
    """Seconds by the name of the layer: the first one in a kernel, or one whose activation it names."""
    order = {node.name: node.name for node in layers}
    for node in layers:  # a kernel may go by the name of the activation that it takes in
        users = list(node.users)
        while len(users) == 1 and users[0].name not in order and users[0].op == "call_function":
            order.setdefault(users[0].name, node.name)
            users = list(users[0].users)
    place = {node.name: number for number, node in enumerate(layers)}
    times: dict[str, float] = {}
    for seconds, names in kernels:
        inside = sorted({order[name] for name in names if name in order}, key=place.__getitem__)
        if inside:
            times[inside[0]] = times.get(inside[0], 0.0) + seconds
    return times
