"""Rewrites: what is put in the place of a part of an engine's graph; rows of a table, and a log of them.

A rewrite computes the same as what it replaces, in the engine's kernels or in the file.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rewrite:
    """A row: where ``pattern`` matches and ``check`` gives no reason against it, ``put`` changes the graph.

    ``pattern`` gives the places in a graph that may be rewritten, or is a pattern for the matcher of the
    engine's library; ``check`` and ``put`` are called with what was matched. ``effect`` is what the rewrite
    gains, with date and machine if they are known. ``processors``: the kinds that it is for; empty for all.
    """

    name: str
    pattern: Callable[..., Any]
    check: Callable[..., str | None]
    put: Callable[..., Any]
    effect: str
    processors: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Tried:
    """A ``node`` where a rewrite matched, and the ``reason`` why it was refused; None if it fired."""

    rewrite: str
    node: str
    reason: str | None


def chosen(rewrites: Iterable[Rewrite], processor: str) -> list[Rewrite]:
    """The rewrites for a kind of processor."""
    return [one for one in rewrites if not one.processors or processor in one.processors]


def apply(rewrites: Iterable[Rewrite], graph: Any) -> list[Tried]:
    """Applies each rewrite, in order, at every place that its pattern gives; changes the graph in place."""
    tried = []
    for one in rewrites:
        for place in list(one.pattern(graph)):
            reason, name = one.check(graph, place), str(place.name)
            if reason is None:
                one.put(graph, place)
            tried.append(Tried(one.name, name, reason))
    return tried


def tell(tried: Sequence[Tried]) -> None:
    """Logs at DEBUG level how often each rewrite fired, and at which nodes it was refused and why."""
    for name in dict.fromkeys(one.rewrite for one in tried):
        refused = [one for one in tried if one.rewrite == name and one.reason is not None]
        fired = sum(one.rewrite == name for one in tried) - len(refused)
        _log.debug("%s: fired %d times, refused %d times", name, fired, len(refused))
        for one in refused:
            _log.debug("%s: refused at %s: %s", name, one.node, one.reason)
