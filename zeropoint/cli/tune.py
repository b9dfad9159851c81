"""``zeropoint tune``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from zeropoint import progress
from zeropoint.cli import options as shared
from zeropoint.cli import output
from zeropoint.cli.report import draw_or_say
from zeropoint.cli.run import interruptible
from zeropoint.targets.options import Options

BUDGET = "Budget"
MinSqnr = Annotated[
    float | None, typer.Option(help="Least SQNR of the outputs, in dB.", rich_help_panel=BUDGET)
]
MaxSize = Annotated[
    str | None, typer.Option(help="Largest size of the artefact, as in 4MB.", rich_help_panel=BUDGET)
]
MaxLatency = Annotated[
    str | None, typer.Option(help="Longest latency of a call, as in 3ms.", rich_help_panel=BUDGET)
]
Minimize = Annotated[
    str | None,
    typer.Option(
        help="What is to be least: latency, size or loss; default: latency where accuracy has a limit,"
        " else loss.",
        rich_help_panel=BUDGET,
    ),
]
WholeCurve = Annotated[
    bool,
    typer.Option("--frontier", help="The whole curve of accuracy, latency and size.", rich_help_panel=BUDGET),
]
TimeLimit = Annotated[
    str | None,
    typer.Option(help="When to stop the search, as in 10min; default: when nothing more is gained."),
]
Formats = Annotated[
    str,
    typer.Option(
        help="Formats of layers to choose from, separated by commas: W8A8, W4A8, W8A16, or W4A32 for"
        " weights alone; float and W8A8 are always among them."
    ),
]
Methods = Annotated[
    str,
    typer.Option(
        help="Methods, separated by commas: the first makes all models; static-best and qat make the best"
        " again, as far as the time limit allows."
    ),
]
Engines = Annotated[
    str | None,
    typer.Option(
        help="Engines, separated by commas; default: those installed. The cheapest in W8A8 is searched."
    ),
]
Out = Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/tune-MODEL.")]


@shared.quantizing()
def tune(
    model: shared.Model,
    data: shared.Data,
    options: Options,
    max_drop: shared.MaxDrop = None,
    min_sqnr: MinSqnr = None,
    max_size: MaxSize = None,
    max_latency: MaxLatency = None,
    minimize: Minimize = None,
    frontier: WholeCurve = False,
    formats: Formats = "float,W8A8,W8A16,W4A8,W8A32,W4A32",
    methods: Methods = "static",
    engines: Engines = None,
    time_limit: TimeLimit = None,
    out: Out = None,
    weights: shared.Weights = "default",
    batch_size: shared.BatchSize = 32,
    limit_batches: shared.LimitBatches = None,
    free_sizes: shared.FreeSizes = False,
    threads: shared.Threads = 1,
    latency_batch_size: Annotated[
        int, typer.Option(min=1, help="Samples per batch when latency is measured.")
    ] = 1,
    task: shared.Task = None,
    metric: shared.Metrics = None,
    higher_is_better: shared.HigherIsBetter = None,
    postprocess: shared.Postprocess = None,
    loss: shared.Loss = None,
    workers: shared.Workers = None,
    json: shared.Json = False,
) -> None:
    """Find the fastest or smallest model that keeps a budget.

    Every layer gets a format of its own. What is reported was measured, and what else there is is shown. The
    same command again goes on after an interruption; another budget uses what was measured.
    """
    from zeropoint.tuning.budget import DURATIONS, SIZES, TIMES, Budget, quantity

    asked = Budget(
        max_drop,
        min_sqnr,
        quantity(max_size, SIZES, "--max-size") if max_size else None,
        quantity(max_latency, TIMES, "--max-latency") if max_latency else None,
        minimize,
        frontier,
    )
    seconds = quantity(time_limit, DURATIONS, "--time-limit") if time_limit else None
    from zeropoint.cli.resolve import loss_of, program_and_data, task_of, told_task
    from zeropoint.report.tune import terminal
    from zeropoint.tuning.formats import checked
    from zeropoint.tuning.frontier import plain
    from zeropoint.tuning.search import tune as search

    chosen = checked(shared.names(formats))
    task = told_task(task, data)
    made = task_of(task, metric, higher_is_better, postprocess)
    own = loss_of(loss, task)
    program, loaders = program_and_data(
        model, weights, data, batch_size, limit_batches, task=task, free_sizes=free_sizes
    )
    name = model.removesuffix(".pt2").replace("/", "-").replace(":", "-")
    folder = out or Path("runs") / f"tune-{name}"
    given: dict[str, Any] = {"engines": shared.names(engines) if engines else None}
    with interruptible():
        found = search(
            program,
            loaders,
            asked,
            out=folder,
            formats=chosen,
            methods=shared.names(methods),
            options=options,
            threads=threads,
            batch_size=latency_batch_size,
            task=made,
            loss=own,
            time_limit=seconds,
            workers=workers,
            command=output.command_line(),
            say=progress.say,
            **given,
        )
    if json:
        output.print_json(plain(found))
        return
    output.print_table(terminal(found), key=1)
    output.say(f"Results: {folder}/tune.json", style="dim")
    if found.chosen is not None:
        point = found[found.chosen]
        output.say(f"Model: {folder}/{point.program or point.artefact}", style="dim")
        output.say(f"Artefact: {folder}/{point.artefact}", style="dim")
        output.say(f"To deploy it: zeropoint ship {folder} --out DIR", style="dim")
    draw_or_say(folder)
