"""The files of a comparison's results: JSON to read back, CSV and Markdown for people and other programs."""

import csv
import hashlib
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import msgspec

from zeropoint.errors import InputError
from zeropoint.files import as_type, atomic_write, read_json
from zeropoint.measure.latency import Latency
from zeropoint.measure.results import FILE, Parity, Results, Row
from zeropoint.report.table import markdown
from zeropoint.tasks.bootstrap import Change
from zeropoint.tuning.frontier import FILE as SEARCH
from zeropoint.tuning.frontier import load as load_search
from zeropoint.tuning.rows import results_of

SCHEMA = 3
"""Version of ``results.json``; it goes up whenever a reader of the older one would misread the newer."""
FIX = "delete results.json and compare again"
DIGEST = "digest"
"""The key of a row's digest, which shows a number that was changed by hand. Earlier versions wrote none."""


def record(results: Results) -> dict[str, Any]:
    """What results.json holds."""
    kept = asdict(results)
    kept["rows"] = [{**row, DIGEST: _digest(row)} for row in kept["rows"]]
    return {"schema": SCHEMA, **kept}


def save(results: Results, folder: str | os.PathLike[str]) -> None:
    """Writes results.json, results.csv and results.md into ``folder``, each whole or not at all.

    Raises InputError if the folder cannot be written.
    """
    folder = Path(folder)
    with atomic_write(folder / FILE) as path:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(record(results))) + b"\n")
    with (
        atomic_write(folder / "results.csv") as path,
        path.open("w", newline="", encoding="utf-8") as file,
    ):
        rows = [_flat(row, results) for row in results.rows]
        writer = csv.DictWriter(file, fieldnames=list(_flat(Row("", "", 0, None), results)))
        writer.writeheader()
        writer.writerows(rows)
    with atomic_write(folder / "results.md") as path:
        path.write_text(markdown(results), encoding="utf-8")


def load(folder: str | os.PathLike[str]) -> Results:
    """The results that ``save`` wrote into ``folder``, or those of the search in it.

    Raises InputError if results.json is missing, not JSON, truncated, incomplete, or of a newer schema, or if
    a row was changed since it was saved.
    """
    path = Path(folder) / FILE
    if not path.exists() and (Path(folder) / SEARCH).exists():
        return results_of(load_search(Path(folder)))
    if not path.exists():
        raise InputError(
            f"no results.json in {folder}: give the folder that `zeropoint compare --out` or tune wrote"
        )
    record = read_json(path, FIX)
    schema = record.get("schema") if isinstance(record, dict) else None
    if not isinstance(schema, int):
        raise InputError(f"{path} holds no results (no schema number); {FIX}")
    if schema > SCHEMA:
        raise InputError(
            f"{path} was saved by a newer zeropoint (schema {schema}, this one reads {SCHEMA}): "
            "upgrade zeropoint"
        )
    results = as_type(_upgraded(record) if schema < SCHEMA else record, Results, path, FIX)
    for number, (row, kept) in enumerate(zip(results.rows, record["rows"], strict=True), start=1):
        if DIGEST in kept and kept.pop(DIGEST) != _digest(kept):
            raise InputError(f"{path}: row {number}, {row.name}, was changed after it was saved; {FIX}")
    return results


def _digest(row: dict[str, Any]) -> str:
    """A hash of the values of a row, however they are spaced and ordered in a file."""
    return hashlib.sha256(msgspec.json.encode(row, order="sorted")).hexdigest()[:16]


def _upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """A record of schema 2, in which rows do not say why parity failed, as one of this schema."""
    for row in record["rows"] if isinstance(record.get("rows"), list) else ():
        parity = row.get("parity") if isinstance(row, dict) else None
        if isinstance(parity, dict):
            row["parity"] = {"close": parity.get("ok"), **parity}
    return record


def _flat(row: Row, results: Results) -> dict[str, Any]:
    """A row as one level of columns, for CSV; None is an empty cell."""
    record = asdict(row)
    record["fallbacks"] = "; ".join(row.fallbacks)
    del record["changed_samples"], record["changed_classes"]  # too long for a cell
    values = record.pop("values")
    record |= {f"metric_{metric.name}": values.get(metric.name) for metric in results.metrics}
    for name, kind in (("latency_ms", Latency), ("parity", Parity), ("change", Change)):
        nested = record.pop(name) or {}
        record |= {f"{name}_{field.name}": nested.get(field.name) for field in fields(kind)}
    return record
