"""``zeropoint bench``."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from zeropoint import progress
from zeropoint.cli import options as shared
from zeropoint.cli import output
from zeropoint.files import check_writable


def bench(
    model: shared.AnyModel,
    other: Annotated[
        str | None, typer.Argument(metavar="OTHER", help="A second model, timed in turns with MODEL.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="The engine: torch, onnxruntime, openvino, executorch or auto; default: torch, or the"
            " artefact's."
        ),
    ] = None,
    other_engine: Annotated[
        str | None, typer.Option(help="The engine of OTHER; default: that of MODEL.")
    ] = None,
    threads: shared.Threads = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per batch of each call.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds to measure latency.")] = 3.0,
    weights: shared.Weights = "default",
    data: shared.Shape = None,
    task: shared.Head = None,
    json: Annotated[
        Path | None,
        typer.Option(help="JSON file for all measurements; - prints them on stdout, and nothing else there."),
    ] = None,
) -> None:
    """Measure latency, cold start and memory of one or two models.

    Of two models it says which one is faster. Cold start and memory are those of a fresh process that
    loads the engine's artefact and runs it. Warm-up is the time of its first calls, until one takes at
    most 10% longer than the median of later ones.
    """
    from zeropoint.cli import resolve
    from zeropoint.measure.benchmark import benchmark, benchmark_pair
    from zeropoint.report import bench as report

    if json is not None and json != Path("-"):
        check_writable(json)
    say, command = progress.say, output.command_line()
    candidate = partial(
        resolve.candidate,
        threads=threads,
        batch_size=batch_size,
        weights=weights,
        data=data,
        task=task,
        say=say,
    )
    candidates = [candidate(model, engine, "torch")]
    if other is not None:
        candidates.append(candidate(other, other_engine, engine or candidates[0].runner.engine))
    inputs = resolve.shared_inputs(candidates)
    runner, *others = [one.runner for one in candidates]
    pair = benchmark_pair(runner, others[0], inputs, seconds=seconds, say=say) if others else None
    results = [pair.model, pair.other] if pair else [benchmark(runner, inputs, seconds=seconds, say=say)]
    models, choices = [one.model for one in candidates], [one.choice for one in candidates]
    if json == Path("-"):
        output.print_json(report.record(models, results, choices, pair, seconds=seconds, command=command))
        return
    for choice in choices:
        if choice is not None:
            output.say(report.chosen(choice))
    output.print_table(report.terminal(models, results))
    if pair is not None:
        output.say(report.compared(models, pair))
    if json is not None:
        report.write_json(json, models, results, choices, pair, seconds=seconds, command=command)
