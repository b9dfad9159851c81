"""The results of coverage.py in words: counts, a table, and failures by their cause."""

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import report

Record = dict[str, Any]
ENGINES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "torch": "PyTorch"}
RIVALS = {"nncf": "NNCF", "quantize_static": "quantize_static", "pt2e": "PT2E"}  # of each engine
TOOLS = RIVALS | {"fx": "FX"}
PARITY_DB, GOOD_DB, WORSE_DB = 0.5, 25.0, 1.0
HEAD = [
    "Architecture", "Parameters, 10³", "Sensitivity, dB", "Capture, s",
    *(f"{name}: {value}" for name in ENGINES.values() for value in ("SQNR, dB", "parity, dB", "int8", "s")),
    *(f"{name}: {value}" for name in TOOLS.values() for value in ("SQNR, dB", "s")),
]  # fmt: skip


def line(record: Record) -> str:
    """A record in one line, for the terminal."""
    parts = [f"{record['name']:40}"]
    for stage in ("capture", *ENGINES, *TOOLS):
        if stage not in record:
            continue
        found = record[stage]
        if "error" in found:
            parts.append(f"{stage}: {found['error'][:90]}")
        elif stage == "capture":
            parts.append(f"{found['seconds']:.1f} s, sensitivity {found['sensitivity_db']:.0f}")
        else:
            more = ""
            if "parts" in found:
                more = f" in {found['parts']} parts"
            elif stage in ENGINES:
                more = f" parity {found['parity_db']:.1f} int8 {found['int8_share']:.0%}"
            parts.append(f"{stage}: {found['sqnr_db']:.1f} dB{more} {found['seconds']:.1f} s")
    return " | ".join(parts)


def markdown(records: list[Record]) -> str:
    """The counts, the table, and the failures."""
    return "\n".join(
        [counts(records), report.table(HEAD, [_cells(record) for record in records]), failures(records)]
    )


def ran(records: Iterable[Record], stage: str) -> list[Record]:
    """Those of which a stage did what it should, with the whole network."""
    found = [record for record in records if stage in record and "error" not in record[stage]]
    return [record for record in found if "parts" not in record[stage]]


def counts(records: list[Record]) -> str:
    """How many fulfil what is asked, per engine."""
    captured = ran(records, "capture")
    lines = [["captured", *([f"{len(captured)} of {len(records)}"] * len(ENGINES))]]
    in_parts = [[record for record in records if "parts" in record.get(engine, {})] for engine in ENGINES]
    lines.append(["others in parts", *(str(len(those)) for those in in_parts)])
    columns: dict[str, list[str]] = defaultdict(list)
    for engine, rival in zip(ENGINES, RIVALS, strict=True):
        done = [record for record in ran(records, engine)]
        tried = [record for record in captured if engine in record]
        columns["quantized and run"].append(f"{len(done)} of {len(tried)}")
        columns[f"parity within {PARITY_DB} dB"].append(
            _share(r[engine]["parity_db"] <= PARITY_DB for r in done)
        )
        columns[f"SQNR of {GOOD_DB:.0f} dB and more"].append(
            _share(r[engine]["sqnr_db"] >= GOOD_DB for r in done)
        )
        columns["something in int8"].append(_share(r[engine]["int8_share"] > 0 for r in done))
        both = [record for record in done if rival in record and "error" not in record[rival]]
        near = [_fair(r[engine]["sqnr_db"]) >= _fair(r[rival]["sqnr_db"]) - WORSE_DB for r in both]
        columns[f"at most {WORSE_DB:.0f} dB below the other tool"].append(_share(near))
        ours = [r["capture"]["seconds"] + r[engine]["seconds"] for r in both]
        theirs = [r[rival]["seconds"] for r in both]
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        columns["its seconds ÷ ours, median"].append(f"{1 / statistics.median(ratios):.2f}" if ratios else "")
        columns["the other tool failed"].append(str(sum("error" in r.get(rival, {}) for r in records)))
    lines += [[title, *cells] for title, cells in columns.items()]
    return report.table(["", *ENGINES.values()], lines)


def _fair(sqnr: float) -> float:
    """Above 50 dB more is no better: what is left float decides."""
    return min(sqnr, 50.0)


def _share(values: Iterable[bool]) -> str:
    found = list(values)
    return f"{sum(found)} of {len(found)} ({sum(found) / len(found):.0%})" if found else ""


def _cells(record: Record) -> list[str]:
    capture = record["capture"]
    if "error" in capture:
        cells = [record["name"], "", "", "not whole"]
    else:
        size = f"{capture['parameters'] / 1e3:.0f}"
        cells = [record["name"], size, f"{capture['sensitivity_db']:.0f}", f"{capture['seconds']:.1f}"]
    for engine in ENGINES:
        found = record.get(engine)
        if found is None:
            cells += [""] * 4
        elif "error" in found:
            cells += ["failed", "", "", ""]
        elif "parts" in found:
            cells += [f"{found['sqnr_db']:.1f}", f"in {found['parts']} parts", "", f"{found['seconds']:.1f}"]
        else:
            cells += [f"{found['sqnr_db']:.1f}", f"{found['parity_db']:.1f}", f"{found['int8_share']:.0%}"]
            cells += [f"{found['seconds']:.1f}"]
    for tool in TOOLS:
        found = record.get(tool)
        if found is None:
            cells += [""] * 2
        else:
            cells += (
                ["failed", ""] if "error" in found else [f"{found['sqnr_db']:.1f}", f"{found['seconds']:.1f}"]
            )
    return cells


def failures(records: list[Record]) -> str:
    """What failed, by stage and cause, with the architectures."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    examples: dict[tuple[str, str], str] = {}
    for record in records:
        for stage in ("capture", *ENGINES, *TOOLS):
            if error := record.get(stage, {}).get("error"):
                key = stage, cause(error)
                groups[key].append(record["name"])
                examples.setdefault(key, error)
        for engine in ENGINES:
            found = record.get(engine, {})
            if found.get("parity_db", 0.0) > PARITY_DB:
                groups[engine, "parity"].append(f"{record['name']} ({found['parity_db']:.1f} dB)")
            if found.get("sqnr_db", GOOD_DB) < GOOD_DB:
                groups[engine, "SQNR"].append(f"{record['name']} ({found['sqnr_db']:.1f} dB)")
    parts = ["## Failures by cause\n"]
    for (stage, kind), names in sorted(groups.items(), key=lambda item: (item[0][0], -len(item[1]))):
        title = {"parity": f"parity beyond {PARITY_DB} dB", "SQNR": f"SQNR below {GOOD_DB:.0f} dB"}.get(kind)
        parts.append(f"- {stage}, {len(names)}: {title or examples[stage, kind]}\n  ({', '.join(names)})\n")
    return "".join(parts)


def cause(error: str) -> str:
    """The error without its numbers and names, so that equal causes are equal."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d[\d.,x]*|\([^)]*\)|\b(?!aten|prims)\w+\.\w[\w.]*", "_", error)[:70]
