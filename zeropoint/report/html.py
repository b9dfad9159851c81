"""The report of one run folder or of several as one HTML file, which needs no network.

What it shows is decided here, how it looks in ``templates``. Charts, the layers' pages and Plotly itself lie
in it compressed, in base64: less than half the size, and no name in them can end a script.
"""

import base64
import functools
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import jinja2
    import plotly.graph_objects as go
    import plotly.io
    from plotly.offline import get_plotlyjs
    from plotly.utils import PlotlyJSONEncoder

    from zeropoint.report import charts, layer_charts
    from zeropoint.report.layer_pages import layer_address, layer_page, layer_places, layer_table, worst_rows
except ImportError as error:
    from zeropoint.errors import InputError

    raise InputError("Plotly and Jinja2 are not installed; run: pip install 'zeropoint[report]'") from error

from zeropoint.errors import InputError
from zeropoint.files import atomic_write
from zeropoint.measure import layers as layer_files
from zeropoint.measure.layers import Layers
from zeropoint.measure.results import Parity, Results
from zeropoint.report import table
from zeropoint.report.figures import NOTHING, decibels, known, percent, samples
from zeropoint.report.files import load as load_results
from zeropoint.report.samples import MediaFiles, changes
from zeropoint.report.tune import why
from zeropoint.report.verdict import verdict
from zeropoint.tuning.frontier import load as load_search

NAME = "report.html"  # in the run folder

# What bounds the file: 4 MB are left for them beside Plotly.
WORST = 50  # layers of a quantized Program with a page of their own, those of the lowest SQNR
PAGES = 600  # such pages in one report; its Programs share them
CELLS = 40_000  # in the tables of layers of one report


@dataclass(frozen=True)
class Run:
    """A run folder, read. ``label``: its name among others. ``no_layers``: why it has none, or "".

    ``formats``: of a search, the format of each layer of the model that it chose, and why.
    """

    label: str
    folder: Path
    results: Results
    layers: tuple[Layers, ...]
    no_layers: str
    formats: Sequence[tuple[str, str, str]] = ()


@dataclass(frozen=True)
class Chart:
    """A figure with its title and with what it shows, in words."""

    id: str
    title: str
    alternative: str
    figure: go.Figure


def write(folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> None:
    """Writes the report of the runs in ``folders`` to ``out``, whole or not at all.

    Raises InputError if a folder holds no results or ``out`` cannot be written.
    """
    text = render(read(folders))
    with atomic_write(out) as path:
        path.write_text(text, encoding="utf-8")


def read(folders: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """The runs, each once, labelled by model, and if two have the same, by folder, too.

    Layers that cannot be read are missing from a run, and the report says why. Raises InputError if a
    folder holds no results.
    """
    paths = list({Path(folder).resolve(): Path(folder) for folder in folders}.values())
    results = [load_results(path) for path in paths]
    models = [one.model for one in results]
    runs = []
    for path, one in zip(paths, results, strict=True):
        label = one.model if models.count(one.model) == 1 else f"{one.model} ({path})"
        layers, no_layers = _layers(path)
        formats = why(load_search(path)) if one.chosen else ()
        runs.append(Run(label, path, one, layers, no_layers, formats))
    return runs


def render(runs: Sequence[Run]) -> str:
    """The whole HTML document."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("zeropoint.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.j2").render(context(runs))


def context(runs: Sequence[Run]) -> dict[str, Any]:
    """What the template shows; everything but ``packed`` is text, which it escapes."""
    tradeoff = _tradeoff(runs)
    programs = sum(len(run.layers) for run in runs)
    pages = min(WORST, PAGES // max(programs, 1))
    files = MediaFiles()
    sections = [_section(i, run, pages, CELLS // len(runs), files) for i, run in enumerate(runs, 1)]
    shown = [chart for one in sections for chart in one["charts"].values()]
    drawn = {chart.id: chart.figure for chart in ([tradeoff, *shown] if tradeoff else shown)}
    packed: dict[str, Any] = {"figures": drawn, "themes": _themes(), "media": files.held}
    packed |= {key: value for one in sections for key, value in one.pop("pages").items()}
    return {
        "title": table.title(runs[0].results) if len(runs) == 1 else f"{len(runs)} comparisons",
        "verdicts": [(run.label, verdict(run.results)) for run in runs],
        "several": len(runs) > 1,
        "table": _comparison(runs),
        "tradeoff": tradeoff,
        "runs": sections,
        "packed": {"plotly": _packed_plotly()} | {key: pack(value) for key, value in packed.items()},
    }


def pack(value: object) -> str:
    """JSON, compressed (RFC 1950), in base64; figures are taken as well, NaN becomes null."""
    return _compressed(json.dumps(value, cls=PlotlyJSONEncoder, separators=(",", ":")))


def _layers(folder: Path) -> tuple[tuple[Layers, ...], str]:
    try:
        found = tuple(layer_files.load(folder))
    except InputError as error:
        return (), str(error)
    return found, "" if found else "This run did not look at its layers."


def _comparison(runs: Sequence[Run]) -> dict[str, Any]:
    """The comparison table; with several runs their labels are its first column."""
    several = len(runs) > 1
    headers: list[str] = []
    rows: list[tuple[list[str], list[str]]] = []
    for run in runs:
        headers, lines = table.cells(run.results)
        rows += [([run.label] * several + line[:2], line[2:]) for line in lines]
    notes = [(run.label, table.notes(run.results)) for run in runs]
    return {
        "headers": ["Run"] * several + [header.replace("\n", " ") for header in headers],
        "rows": rows,
        "notes": notes,
    }


def _tradeoff(runs: Sequence[Run]) -> Chart | None:
    figure = charts.tradeoff({run.label: run.results for run in runs})
    if figure is None:
        return None
    metric = charts.shared_metric([run.results for run in runs])
    what = (
        "Fidelity to float32"
        if metric is None
        else (metric.name.capitalize() if metric.name.islower() else metric.name)
    )
    fastest = [(run.label, _fastest(run.results)) for run in runs]
    words = "; ".join(f"{label}: the fastest is {row}" for label, row in fastest if row)
    return Chart(
        "tradeoff",
        f"{what} against latency; a bubble's area is its size, dashed is the Pareto front",
        f"Scatter chart. {words}. The table holds the numbers.",
        figure,
    )


def _fastest(results: Results) -> str:
    timed = [(row.latency_ms.p50, row.name) for row in results.rows if row.latency_ms and not row.error]
    return "{1} at {0:.3g} ms".format(*min(timed)) if timed else ""


def _section(number: int, run: Run, pages: int, cells: int, files: MediaFiles) -> dict[str, Any]:
    """What a run's own sections show. ``pages``: for each Program; ``cells``: in the table of layers."""
    results, layers = run.results, run.layers
    places = layer_places(layers)
    worst = [layer_charts.worst_first(one)[:pages] for one in layers]
    rows = layer_table(number, layers, [set(some) for some in worst])
    return {
        "number": number,
        "label": run.label,
        "charts": _charts(number, run, places),
        "changes": changes(number, results, run.folder, files),
        "layers": {
            "missing": run.no_layers,
            "folder": str(run.folder / layer_files.FOLDER),
            "programs": [layer_charts.program_name(one) for one in layers],
            "seen": max((one.items for one in layers), default=0),
            "rows": worst_rows(rows, cells // (len(layers) + 4)),
            "count": len(rows),
            "pages": pages,
        },
        "pages": {
            f"pages-{number}-{program}": {
                layer_address(number, program, places[program][i]): layer_page(
                    layer_charts.program_name(one), one.layers[i]
                )
                for i in sorted(worst[program])
            }
            for program, one in enumerate(layers)
        },
        "searched": bool(results.budget),
        "formats": run.formats,
        "parity": [(row.name, _parity(row.parity)) for row in results.rows if row.parity is not None],
        "machine": _machine(results),
        "versions": sorted((results.machine.get("versions") or {}).items()),
        "options": [
            (key, json.dumps(value))
            for key, value in sorted(results.options.items())
            if value not in (None, [])
        ],
        "command": results.command,
        "folder": str(run.folder),
    }


def _charts(number: int, run: Run, places: list[list[int]]) -> dict[str, Chart]:
    """The charts of one run. ``places``: of the layers of each Program."""
    drawn = {
        "sizes": (
            "Size of what each row ships",
            "Bar chart of the artefacts' sizes on disk; the table's column Size holds the numbers.",
            charts.sizes(run.results),
        ),
        "latencies": (
            "Latency: from the median (bold) to the 90th percentile, the whisker to the 99th",
            "Box chart of each row's latency; the table's column Latency holds median and 90th percentile.",
            charts.latencies(run.results),
        ),
        "errors": (
            "Error along the network: SQNR of each layer's output, with all quantizers before it",
            "Line chart of each layer's SQNR, a line for each Program; the table of layers follows.",
            layer_charts.errors(list(zip(run.layers, places, strict=True))) if run.layers else None,
        ),
    }
    return {
        key: Chart(f"{key}-{number}", title, words, figure)
        for key, (title, words, figure) in drawn.items()
        if figure is not None
    }


def _parity(parity: Parity) -> list[str]:
    return [
        decibels(parity.sqnr_db_engine),
        decibels(parity.sqnr_db_simulation),
        known(parity.agreement, percent),
        "ok" if parity.ok else "failed",
        parity.cause or parity.operator or NOTHING,
    ]


def _machine(results: Results) -> list[tuple[str, str]]:
    machine = results.machine
    memory = machine.get("memory_bytes")
    facts = [
        ("Measured", results.created),
        ("Processor", machine.get("processor")),
        ("Cores", machine.get("cores")),
        ("Instruction sets", " ".join(machine.get("instruction_sets") or ())),
        ("Memory", f"{memory / 1e9:.1f} GB" if memory else None),
        ("System", machine.get("system")),
        ("Python", machine.get("python")),
        ("Latency", f"batch {results.batch_size}, threads {results.threads}"),
        ("Data", f"{results.data}, {samples(results.images, results.data, results.task)}"),
    ]
    return [(name, str(value)) for name, value in facts if value]


def _themes() -> dict[str, go.layout.Template]:
    """Plotly's own templates, on the page's background."""
    clear = {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font_family": "system-ui"}
    named = {"light": "plotly_white", "dark": "plotly_dark"}
    return {
        key: go.layout.Template(plotly.io.templates[name]).update(layout=clear) for key, name in named.items()
    }


@functools.cache
def _packed_plotly() -> str:
    return _compressed(get_plotlyjs())


def _compressed(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()
