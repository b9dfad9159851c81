"""Which architectures zeropoint captures, quantizes and runs, and how well, beside two other tools.

    python benchmarks/coverage.py --only 'pattern/*'

Every architecture has its own process, with limits on time and memory. Results are lines of coverage.jsonl;
what is there already is not measured again. coverage.md is the table, and the failures by cause.
"""

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

import coverage_table
import report
import typer
from architectures import architectures
from coverage_stages import CAPTURE, MORE_PEERS, PEERS, Record, measure

from zeropoint import engines


def read(path: Path) -> dict[str, Record]:
    """The records by name; of several the last one counts."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {record["name"]: record for record in map(json.loads, lines)}


def main(
    only: Annotated[list[str] | None, typer.Option(help="glob over names; repeat for several")] = None,
    engine: Annotated[
        list[str] | None, typer.Option("--engines", help="repeat for several; default: all")
    ] = None,
    peers: Annotated[bool, typer.Option(help="also NNCF and ONNX Runtime's quantizer")] = True,
    more_peers: Annotated[bool, typer.Option("--more-peers", help="also PyTorch's FX and PT2E")] = False,
    limit_seconds: Annotated[float, typer.Option(help="seconds of each stage")] = 240,
    limit_memory: Annotated[float, typer.Option(help="gigabytes of each process")] = 8,
    again: Annotated[bool, typer.Option(help="measure again what was measured")] = False,
    out: Annotated[Path, typer.Option(help="folder of the results")] = report.RESULTS,
) -> None:
    """Measure what is missing, and write the table."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "coverage.jsonl"
    records = read(path)
    stages = [CAPTURE, *(engine or engines.NAMES), *(PEERS if peers else ())]
    stages += MORE_PEERS if more_peers else ()
    for name in architectures():
        if only and not any(fnmatch(name, pattern) for pattern in only):
            continue
        missing = [stage for stage in stages if again or stage not in records.get(name, {})]
        if not missing:
            continue
        found = measure(name, missing, limit_seconds, limit_memory * 1e9)
        records[name] = records.get(name, {}) | found
        with path.open("a") as file:
            file.write(json.dumps(records[name]) + "\n")
        print(coverage_table.line(records[name]), flush=True)
    text = coverage_table.markdown(list(records.values()))
    (out / "coverage.md").write_text(text)


if __name__ == "__main__":
    typer.run(main)
