"""Results as JSON, Markdown tables and a chart."""

import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ratios import geometric_mean

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs"  # where the guide shows the chart
PEERS = ("nncf", "torchao", "torchvision", "transformers")
# The tool that zeropoint is compared with, engine by engine.
RIVALS = {"openvino": "NNCF", "onnxruntime": "quantize_static", "torch": "FX"}
GOALS = {"best": 1.00, "openvino": 1.00, "onnxruntime": 0.95, "torch": 1.05}  # on every network
Record = dict[str, Any]


def versions() -> dict[str, str]:
    """The versions that the description of the machine does not have."""
    return {name: importlib.metadata.version(name) for name in PEERS}


def write(folder: Path, name: str, record: Record, text: str) -> None:
    """Writes NAME.json and NAME.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / f"{name}.md").write_text(text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def where(about: Record) -> str:
    """One sentence: the machine and the versions."""
    libraries = about["versions"] | about["peers"]
    listed = ", ".join(f"{name} {version}" for name, version in libraries.items())
    return f"{about['processor']}, {about['cores']} cores, {' '.join(about['instruction_sets'])}; {listed}.\n"


def latency(record: Record) -> str:
    """The Markdown of latency.json: latencies and ratios of every setting, then fidelity, sizes, failures."""
    models = record["models"]
    parts = []
    for index, setting in enumerate(record["settings"]):
        title = f"## Batch {setting['batch']}, {setting['threads']} thread(s)\n"
        runs = {model: result["settings"][index] for model, result in models.items()}
        parts += [
            title,
            "Median latency in ms; the fastest row of a network is bold. Without an f32 hint, OpenVINO runs "
            "float layers in bf16.\n",
            _latencies(models, runs),
            "zeropoint over others, fastest row over fastest row; below 1 zeropoint is faster.\n",
            _ratios(runs),
            "Multiply-accumulates per second, 10⁹, and their share of the int8 peak that a large matrix "
            "product reached in the same rounds.\n",
            _roofline(models, runs),
        ]
    first = {model: result["settings"][0] for model, result in models.items()}
    parts += [
        "## SQNR against float32, dB\n",
        _by_row(models, lambda model, row: _decibels(row, first[model]["sqnr_db"])),
        "## Share of multiply-accumulates in int8\n",
        _by_row(models, lambda model, row: f"{row['int8_share']:.0%}" if row.get("int8_share") else ""),
        "## Size of the artefact, MB\n",
        "In brackets the weights at their bits.\n",
        _by_row(models, lambda model, row: _size(row)),
        "## Float model in memory to artefact on disk, s\n",
        f"{record['images']} calibration inputs, all cores; in brackets the capture.\n",
        _by_row(models, lambda model, row: _seconds(row)),
        *_failures(models),
        where(record["machine"]),
    ]
    return "\n".join(parts)


def _row_names(models: Record) -> list[str]:
    return list(dict.fromkeys(row["name"] for result in models.values() for row in result["rows"]))


def _by_row(models: Record, cell: Any) -> str:
    lines = []
    for name in _row_names(models):
        found = {
            model: next((row for row in result["rows"] if row["name"] == name), None)
            for model, result in models.items()
        }
        lines.append([name, *("" if row is None else cell(model, row) for model, row in found.items())])
    return table(["Row", *models], lines)


def _latencies(models: Record, runs: Record) -> str:
    def cell(model: str, row: Record) -> str:
        latencies = runs[model]["latency_ms"]
        if row["name"] not in latencies:
            return "failed"
        fastest = min(latencies, key=lambda name: latencies[name]["p50"])
        text = f"{latencies[row['name']]['p50']:.2f}"
        return f"**{text}**" if row["name"] == fastest else text

    return _by_row(models, cell)


def _ratios(runs: Record) -> str:
    titles = {"best": "best ÷ best of the others"}
    titles |= {engine: f"{engine} ÷ {tool}" for engine, tool in RIVALS.items()}
    lines = []
    for key, title in titles.items():
        pairs = [run["ratios"][key] for run in runs.values()]
        medians = [pair["ratio"]["median"] for pair in pairs if pair]
        mean = f"{geometric_mean(medians):.3f}" if medians else "–"
        lines.append([title, f"≤ {GOALS[key]:.2f}", mean, *(_ratio(pair) for pair in pairs)])
    winners = [
        [pair["ours"], pair["theirs"]] if (pair := run["ratios"]["best"]) else ["", ""]
        for run in runs.values()
    ]
    for title, position in (("fastest of zeropoint", 0), ("fastest of the others", 1)):
        lines.append([title, "", "", *(pair[position].removeprefix("zeropoint ") for pair in winners)])
    return table(["Ratio", "Goal", "Geometric mean", *runs], lines)


def _ratio(pair: Record | None) -> str:
    if not pair:
        return "the other failed"
    ratio = pair["ratio"]
    return f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"


def _roofline(models: Record, runs: Record) -> str:
    lines = []
    for engine in RIVALS:
        cells = []
        for run in runs.values():
            name = f"zeropoint static → {engine}"
            if name not in run["latency_ms"]:
                cells.append("–")
                continue
            rate = run["share_of_int8_peak"][name]["median"] * run["int8_peak"]["macs_per_second"]
            cells.append(f"{rate / 1e9:.0f} ({run['share_of_int8_peak'][name]['median']:.0%})")
        lines.append([f"zeropoint static → {engine}", *cells])
    peaks = [f"{run['int8_peak']['macs_per_second'] / 1e9:.0f}" for run in runs.values()]
    lines.append(["int8 peak", *peaks])
    return table(["Engine", *models], lines)


def _decibels(row: Record, sqnr: Record) -> str:
    if row["name"] not in sqnr:
        return ""
    return "identical" if sqnr[row["name"]] is None else f"{sqnr[row['name']]:.1f}"


def _size(row: Record) -> str:
    if "error" in row:
        return ""
    weights = f" ({row['parameter_bytes'] / 1e6:.1f})" if "parameter_bytes" in row else ""
    return f"{row['artefact_bytes'] / 1e6:.1f}{weights}"


def _seconds(row: Record) -> str:
    if "error" in row:
        return ""
    capture = f" ({row['capture_seconds']:.1f})" if "capture_seconds" in row else ""
    return f"{row['seconds']:.1f}{capture}"


def _failures(models: Record) -> list[str]:
    failures = [
        f"- {model}, {row['name']}: {row['error']}\n"
        for model, result in models.items()
        for row in result["rows"]
        if "error" in row
    ]
    return ["## Failures\n", "".join(failures)] if failures else []


def chart(record: Record, path: Path) -> None:
    """The speed-ups over eager float32 of the first setting, as an SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "zeropoint"  # so that the same numbers give the same file
    from matplotlib import pyplot

    models, setting = record["models"], record["settings"][0]
    groups = {"zeropoint": "#1f5fbf", "other quantizers": "#e07b00", "engines by themselves": "#8a8a8a"}
    markers = {"openvino": "o", "onnxruntime": "s", "torch": "^"}
    figure, axes = pyplot.subplots(figsize=(9, 0.6 + 0.55 * len(models)), layout="constrained")
    for height, result in enumerate(reversed(models.values())):
        speedups = result["settings"][0]["speedup_over_eager"]
        for row in result["rows"]:
            if row["name"] not in speedups:
                continue
            group = row["tool"] if row["tool"] == "zeropoint" else "other quantizers" if row["tool"] else ""
            offset = {"zeropoint": 0.18, "other quantizers": 0.0}.get(group, -0.18)
            axes.plot(
                speedups[row["name"]]["median"],
                height + offset,
                marker=markers[row["engine"].split()[0].split(".")[0]],
                color=groups.get(group, groups["engines by themselves"]),
                markerfacecolor="none" if row["method"] in ("fp32", "bf16") else None,
                linestyle="none",
            )
    axes.set_yticks(range(len(models)), list(reversed(models)))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}×")
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(
        f"speed-up over eager float32 (batch {setting['batch']}, {setting['threads']} thread); hollow: float"
    )
    for group, color in groups.items():
        axes.plot([], [], "o", color=color, label=group)
    for engine, marker in markers.items():
        axes.plot([], [], marker, color="black", label=engine)
    axes.legend(ncols=6, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, handletextpad=0.2)
    figure.savefig(path, metadata={"Date": None})
