"""What a search measured as Results, so that whatever reads those of a comparison reads it, too."""

from dataclasses import replace

from zeropoint.measure.results import Results, Row
from zeropoint.tasks.bootstrap import Change
from zeropoint.tasks.metric import Measure
from zeropoint.tuning.formats import FLOAT, find
from zeropoint.tuning.frontier import Frontier, Point, drop_of

DIGITS = 6  # of the digest in the name of a mixture


def results_of(frontier: Frontier) -> Results:
    """The Results with a row for each model that was measured, and the one that was chosen.

    A mixture whose layers all have the same format is the uniform model again, and has no row of its own.
    """
    uniform = [one for one in frontier.points if one.uniform == FLOAT and one.error is None]
    floats = {one.engine: one for one in uniform}
    metric = frontier.measure if frontier.measure != frontier.fidelity else None
    rows = {one.name: _row(one, floats.get(one.engine), metric) for one in frontier.points}
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
        measures=(metric,) if metric is not None else (),
        fidelity=frontier.fidelity,
        max_drop=frontier.max_drop,
        budget=frontier.budget,
        chosen=rows[frontier.chosen].name if frontier.chosen else "",
    )


def _row(point: Point, base: Point | None, metric: Measure | None) -> Row:
    """The row of a point; ``base`` is float32 on the same engine."""
    formats = [find(name) for name in set(point.formats.values())]
    row = Row(
        method="fp32" if point.uniform == FLOAT else point.method,
        engine=point.engine,
        weight_bits=min(one.weight_bits for one in formats),
        activation_bits=min(one.activation_bits for one in formats),
        mixture="" if point.uniform else point.name.rpartition("-")[2][:DIGITS],
        error=point.error,
    )
    if point.error is not None or point.latency_ms is None or base is None:
        return row
    change = None
    if metric is not None and point.drop is not None:
        # What makes a drop of a change makes a change of a drop: a sign, by the direction of the metric.
        drop = drop_of(Change(point.drop, point.drop_low or 0.0, point.drop_high or 0.0), metric)
        change = Change(*drop) if drop else None
    return replace(
        row,
        agreement=point.agreement,
        sqnr_db=point.sqnr_db,
        latency_ms=point.latency_ms,
        speedup_engine=base.latency_ms.p50 / point.latency_ms.p50 if base.latency_ms else None,
        size_bytes=point.size_bytes,
        shrink=(base.size_bytes or 0) / point.size_bytes if point.size_bytes else None,
        artefact=point.artefact,
        values={metric.name: point.value} if metric is not None else {},
        change=change,
    )
