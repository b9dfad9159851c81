"""Ship: a Program on an engine, or a row of a comparison, as a folder that runs by itself."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from zeropoint import engines
from zeropoint.errors import Count, InputError, check_value
from zeropoint.files import check_new
from zeropoint.graph.program import Program, at_batch, check_program
from zeropoint.measure import samples
from zeropoint.measure.kept import standings
from zeropoint.measure.latency import interleave, summarize
from zeropoint.measure.results import Results, Row
from zeropoint.models.source import Preprocessing
from zeropoint.report.files import load as load_results
from zeropoint.report.verdict import fastest
from zeropoint.shipping import folder
from zeropoint.shipping.layouts import check_layout
from zeropoint.shipping.manifest import Shipment, check_engine
from zeropoint.targets import machine

SECONDS = 1.0  # spent timing a Program


def ship(
    program: Program,
    engine: str,
    out: str | os.PathLike[str],
    *,
    inputs: Tensor | Sequence[Tensor] = (),
    threads: int = 1,
    batch_size: int = 1,
    task: str = "",
    classes: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    images: Sequence[str | os.PathLike[str]] = (),
    layout: str = "folder",
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Writes a folder at ``out`` that runs the Program on an engine without zeropoint; gives its manifest.

    The folder holds the artefact, ``predict.py`` and ``verify.py``, which need the engine and NumPy, golden
    inputs and outputs, and a README. ``inputs`` are tensors of one call, in the order of the model's inputs,
    to make the golden outputs of; by default the Program's example. ``preprocessing`` says how the image
    files ``images`` became them. ``classes``: the names of a classifier's classes, whose ``task`` is
    "classification". The latency is measured here with ``threads`` and ``batch_size``. ``layout``: folder, or
    that of a server: triton, ovms (OpenVINO Model Server) or kserve; the folder then has ``repository``.

    Raises InputError if ``out`` exists, and as ``zp.compile`` does.

    >>> manifest = zp.ship(quantized, "onnxruntime", "deploy", inputs=torch.rand(2, 3, 8, 8))
    >>> manifest["inputs"]
    [{'name': 'input', 'dtype': 'float32', 'shape': ['batch', 3, 8, 8]}]
    """
    check_program(program)
    check_value("threads", threads, Count)
    check_value("batch_size", batch_size, Count)
    check_new(out)
    engines.find(engine)
    check_layout(layout, engine)
    given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    tensors = given or program.example_inputs
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "model"
        runner = engines.compile(program, engine, threads=threads, batch_size=batch_size, path=path)
        runner.flat(*tensors)  # which says what does not fit
        timed = at_batch(program, batch_size).example_inputs
        seconds = interleave({"": lambda: runner.flat(*timed)}, seconds=SECONDS)[""]
        kept = samples.of_inputs(program, tensors)
        shipment = Shipment(
            artefact=runner.artefact,
            engine=engine,
            samples=samples.prepared(kept, preprocessing, images, classes),
            model=program.origin or "a model",
            method=program.method,
            weight_bits=program.weight_bits,
            activation_bits=program.activation_bits,
            machine=machine.describe(),
            task=task,
            threads=threads,
            batch_size=batch_size,
            latency=summarize(seconds),
        )
        return folder.write(shipment, out, layout, say)


def ship_run(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    row: str | None = None,
    anyway: bool = False,
    layout: str = "folder",
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Writes a folder at ``out`` that runs a row of a comparison without zeropoint; gives its manifest.

    ``run``: the folder that ``compare`` or ``tune`` wrote. ``row``: method, bits and engine, as in "static
    W8A8 openvino", of which what is not needed to find the row may be left out; by default the row that the
    verdict recommends, or that the search chose. The folder is that of ``ship``, with what was measured of
    the row, and so is ``layout``.

    Raises InputError for a row that does not exist, that failed, or, unless ``anyway``, that computes
    something else than its Program, and if ``out`` exists.

    >>> data = zp.Loaders("mine", calibration=batches, evaluation=batches)
    >>> results = zp.compare(program, data, out="run", methods=["static"], engines=["openvino"])
    >>> manifest = zp.ship_run("run", "deployed", row="static openvino")
    >>> manifest["engine"]["name"], manifest["outputs"][0]["meaning"]
    ('openvino', 'a score for each class')
    """
    check_new(out)
    results = load_results(run)
    chosen = find(results, row) if row is not None else recommended(results)
    if chosen.error is not None or chosen.artefact is None or chosen.latency_ms is None:
        why = chosen.error or "it was not timed, since the comparison was interrupted; compare again"
        raise InputError(f"{chosen.name} cannot be shipped: {why}")
    if chosen.is_wrong and not anyway:
        cause = chosen.parity.cause if chosen.parity and chosen.parity.cause else "parity failed"
        raise InputError(
            f"{chosen.name} computes something else than its Program ({cause});"
            " ship another row, or give --anyway"
        )
    check_engine(chosen.engine)
    check_layout(layout, chosen.engine)
    shipment = Shipment(
        artefact=Path(run) / chosen.artefact,
        engine=chosen.engine,
        samples=samples.load(run),
        model=results.model,
        method=chosen.method,
        weight_bits=chosen.weight_bits,
        activation_bits=chosen.activation_bits or 32,
        machine=results.machine,
        task=results.task,
        threads=results.threads,
        batch_size=results.batch_size,
        latency=chosen.latency_ms,
        metrics=chosen.values,
        sqnr_db=chosen.sqnr_db,
    )
    say(f"shipping {chosen.name}")
    return folder.write(shipment, out, layout, say)


def find(results: Results, words: str) -> Row:
    """The row that the words name: its method, its bits and its engine, in any order.

    Raises InputError if there is none, or several.
    """
    wanted = {word.lower() for word in words.split()} - {"on"}
    # "static on openvino" is a row's whole name, though other rows of static have these words, too.
    rows = [row for row in results.rows if row.name.lower() == words.lower()] or [
        row
        for row in results.rows
        if wanted
        and wanted <= {row.method, row.engine, row.bits.lower() if row.quantized else "", row.mixture}
    ]
    if len(rows) == 1:
        return rows[0]
    names = ", ".join(f"'{row.name}'" for row in rows or results.rows)
    problem = f"'{words}' is {len(rows)} rows" if rows else f"there is no row '{words}'"
    raise InputError(f"{problem}; give --row as one of {names or 'none: the comparison has no rows'}")


def recommended(results: Results) -> Row:
    """The row that the verdict recommends, or that a search chose. Raises InputError if there is none."""
    if results.chosen:
        return next(row for row in results.rows if row.name == results.chosen)
    if results.budget:
        raise InputError("this search chose no model; choose one with --row")
    kept = [one for one in standings(results) if one.kept == "yes"]
    if not kept:
        raise InputError("no row of this comparison keeps float32's accuracy; choose one with --row")
    return fastest(kept).row
