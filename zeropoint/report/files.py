"""The files of a comparison's results: JSON to read back, CSV and Markdown for people and other programs."""

import csv
import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from zeropoint.errors import InputError
from zeropoint.files import atomic_write
from zeropoint.measure.latency import Latency
from zeropoint.measure.results import Parity, Results, Row
from zeropoint.report.table import markdown

SCHEMA = 3
"""Version of ``results.json``; it goes up whenever a reader of the older one would misread the newer."""


def record(results: Results) -> dict[str, Any]:
    """What results.json holds."""
    return {"schema": SCHEMA, **asdict(results)}


def save(results: Results, folder: str | os.PathLike[str]) -> None:
    """Writes results.json, results.csv and results.md into ``folder``, each whole or not at all.

    Raises InputError where the folder cannot be written.
    """
    folder = Path(folder)
    with atomic_write(folder / "results.json") as path:
        path.write_text(json.dumps(record(results), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with (
        atomic_write(folder / "results.csv") as path,
        path.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, fieldnames=list(_flat(Row("", "", 0, None))))
        writer.writeheader()
        writer.writerows(map(_flat, results.rows))
    with atomic_write(folder / "results.md") as path:
        path.write_text(markdown(results), encoding="utf-8")


def load(folder: str | os.PathLike[str]) -> Results:
    """The results that ``save`` wrote into ``folder``.

    Raises InputError where results.json is not there, not JSON, truncated, incomplete, or of a newer schema.
    """
    path = Path(folder) / "results.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"no results.json in {folder}: give the folder that `zeropoint compare --out` wrote"
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}; give the folder of a comparison"
        ) from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise InputError(f"{path} is truncated or not JSON ({error}): delete it and compare again") from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if not isinstance(schema, int):
        raise InputError(f"{path} holds no results (no schema number): delete it and compare again")
    if schema > SCHEMA:
        raise InputError(
            f"{path} was saved by a newer zeropoint (schema {schema}, this one reads {SCHEMA}): "
            "upgrade zeropoint"
        )
    return _read(Results, _upgraded(record) if schema < SCHEMA else record, str(path))


def _upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """A record of schema 2, in which rows do not tell why parity failed, as one of this schema."""
    for row in record["rows"] if isinstance(record.get("rows"), list) else ():
        parity = row.get("parity") if isinstance(row, dict) else None
        if isinstance(parity, dict):
            row["parity"] = {"close": parity.get("ok"), "cause": None, **parity}
    return {"remarks": [], **record}


_T = TypeVar("_T")


def _read(kind: type[_T], record: Any, where: str) -> _T:
    """A dataclass from its JSON object; keys it does not know are left out."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # every kind is a dataclass
    if not isinstance(record, dict):
        raise InputError(f"{where} is not a JSON object: delete results.json and compare again")
    if absent := [name for name in names if name not in record]:
        raise InputError(f"{where} lacks {', '.join(absent)}: delete results.json and compare again")
    values = {name: record[name] for name in names}
    for name, nested in (("latency_ms", Latency), ("parity", Parity)):
        if values.get(name) is not None:
            values[name] = _read(nested, values[name], f"{where}, {name}")
    if "remarks" in values:
        values["remarks"] = tuple(values["remarks"] or ())
    if "fallbacks" in values:
        values["fallbacks"] = tuple(values["fallbacks"] or ())
    if "rows" in values:
        if not isinstance(values["rows"], list):
            raise InputError(f"{where}: rows is not a list: delete results.json and compare again")
        values["rows"] = tuple(
            _read(Row, row, f"{where}, row {i}") for i, row in enumerate(values["rows"], 1)
        )
    return kind(**values)


def _flat(row: Row) -> dict[str, Any]:
    """A row as one level of columns, for CSV; None is an empty cell."""
    record = asdict(row)
    record["fallbacks"] = "; ".join(row.fallbacks)
    for name, kind in (("latency_ms", Latency), ("parity", Parity)):
        nested = record.pop(name) or {}
        record |= {f"{name}_{field.name}": nested.get(field.name) for field in fields(kind)}
    return record
