"""What a search measured as Results, so that whatever reads those of a comparison reads it, too."""

from collections.abc import Mapping
from dataclasses import replace

from zeropoint.measure.results import Results, Row
from zeropoint.tasks.bootstrap import Change
from zeropoint.tuning.formats import FLOAT, FLOAT_BITS, find
from zeropoint.tuning.frontier import Frontier, Point

DIGITS = 6  # of the digest in the name of a mixture


def results_of(frontier: Frontier) -> Results:
    """The Results with a row for each model that was measured, and the one that was chosen.

    A mixture whose layers all have the same format is the uniform model again, and has no row of its own.
    """
    uniform = [one for one in frontier.points if one.uniform == FLOAT and one.error is None]
    floats = {one.engine: one for one in uniform}
    is_metric = frontier.measure is not None and frontier.measure != frontier.fidelity
    rows = {one.name: _row(one, frontier, floats, is_metric) for one in frontier.points}
    unique: dict[str, Row] = {}
    for row in rows.values():
        unique.setdefault(row.name, row)
    return Results(
        created=frontier.created,
        command=frontier.command,
        model=frontier.model,
        data=frontier.data,
        threads=frontier.threads,
        batch_size=frontier.batch_size,
        images=max((one.items for one in frontier.points), default=0),
        machine=frontier.machine,
        options=frontier.options,
        missing={},
        fingerprint=frontier.fingerprint,
        rows=tuple(unique.values()),
        task=frontier.task,
        measures=(frontier.measure,) if frontier.measure is not None and is_metric else (),
        fidelity=frontier.fidelity,
        max_drop=frontier.max_drop,
        budget=frontier.budget,
        chosen=rows[frontier.chosen].name if frontier.chosen else "",
    )


def _row(point: Point, frontier: Frontier, floats: Mapping[str, Point], is_metric: bool) -> Row:
    formats = [find(name) for name in set(point.formats.values())]
    is_float = point.uniform == FLOAT
    row = Row(
        method="fp32" if is_float else point.method,
        engine=point.engine,
        weight_bits=min(one.weight_bits for one in formats),
        activation_bits=min(one.activation_bits for one in formats) if not is_float else FLOAT_BITS,
        mixture="" if point.uniform else point.name.rpartition("-")[2][:DIGITS],
        error=point.error,
    )
    measure, base = frontier.measure, floats.get(point.engine)
    if point.error is not None or point.latency_ms is None or base is None:
        return row
    change = None
    if measure is not None and point.drop is not None:
        sign = -1 if measure.higher_is_better else 1
        low, high = sorted((sign * (point.drop_low or 0.0), sign * (point.drop_high or 0.0)))
        change = Change(sign * point.drop, low, high)
    return replace(
        row,
        agreement=point.agreement,
        sqnr_db=point.sqnr_db,
        latency_ms=point.latency_ms,
        speedup_engine=base.latency_ms.p50 / point.latency_ms.p50 if base.latency_ms else None,
        size_bytes=point.size_bytes,
        shrink=(base.size_bytes or 0) / point.size_bytes if point.size_bytes else None,
        artefact=point.artefact,
        values={measure.name: point.value} if measure is not None and is_metric else {},
        change=change if is_metric else None,
    )
