"""``zeropoint compare``."""

import operator
from pathlib import Path
from typing import Annotated

import typer

from zeropoint import progress
from zeropoint.cli import options as shared
from zeropoint.cli import output
from zeropoint.cli.report import draw_or_say
from zeropoint.cli.run import interruptible
from zeropoint.targets.options import Options

Methods = Annotated[
    str,
    typer.Option(
        help="Methods, separated by commas: fp32, bf16, dynamic, weight-only, static, static-best, qat."
    ),
]
Engines = Annotated[
    str | None,
    typer.Option(
        help="Engines, separated by commas: torch, onnxruntime, openvino, executorch; default: those of the"
        " first three that are installed."
    ),
]
ListOfBits = Annotated[
    str,
    typer.Option(
        help="Bits of weights, 2 to 8, and of activations, 2 to 16; several, separated by commas, are"
        " compared: W8A8,W4A8."
    ),
]
LatencyBatchSize = Annotated[int, typer.Option(min=1, help="Samples per batch when latency is measured.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/MODEL.")]


@shared.quantizing()
def compare(
    model: shared.Model,
    data: shared.Data,
    options: Options,
    methods: Methods = "fp32,bf16,dynamic,static",
    engines: Engines = None,
    bits: ListOfBits = "W8A8",
    out: Out = None,
    weights: shared.Weights = "default",
    batch_size: shared.BatchSize = 32,
    limit_batches: shared.LimitBatches = None,
    free_sizes: shared.FreeSizes = False,
    parts: shared.Parts = None,
    threads: shared.Threads = 1,
    latency_batch_size: LatencyBatchSize = 1,
    task: shared.Task = None,
    metric: shared.Metrics = None,
    higher_is_better: shared.HigherIsBetter = None,
    postprocess: shared.Postprocess = None,
    max_drop: shared.MaxDrop = None,
    loss: shared.Loss = None,
    workers: shared.Workers = None,
    json: shared.Json = False,
) -> None:
    """Measure every method on every engine, one row each.

    The table is printed, and a folder gets it with the artefacts and an HTML report. The same command
    again continues a run that was interrupted. With --parts only the table is printed.
    """
    from zeropoint.cli.resolve import loss_of, program_and_data, promise_of, task_of, told_task
    from zeropoint.comparison.compare import compare as run_comparison
    from zeropoint.comparison.start import check_methods
    from zeropoint.measure.promise import warn_of_shortfall
    from zeropoint.report.files import record
    from zeropoint.report.table import terminal

    task = told_task(task, data)
    listed = shared.names(engines) if engines else None
    check_methods(shared.names(methods), listed, [options.at(one) for one in shared.names(bits)])
    chosen = task_of(task, metric, higher_is_better, postprocess)
    if parts is not None:
        from zeropoint.cli import parts as of_parts

        of_parts.refuse(
            {
                "--max-drop": (max_drop is not None, "its table has no verdict"),
                "--out": (out is not None, "its table is only printed; --json prints all of it"),
                "--workers": (workers is not None, "its table is measured here"),
                "--loss": (loss is not None, of_parts.NO_LOSS),
                "--free-sizes": (free_sizes, of_parts.NO_FREE_SIZES),
                "--latency-batch-size": (latency_batch_size != 1, "a whole batch of --batch-size is timed"),
                "several --bits": (len(shared.names(bits)) > 1, "one table is of one W and A"),
            }
        )
        given = of_parts.opened(model, weights, task, data, batch_size, limit_batches)
        options = options.at(shared.names(bits)[0])
        named = shared.names(methods)
        rows = of_parts.compare(given, parts, named, listed, options, task=chosen, threads=threads, json=json)
        images = operator.length_hint(given[1].evaluation) * batch_size
        warn_of_shortfall(promise_of(model, weights, data), rows[0].values, images)
        return
    own = loss_of(loss, task)
    program, loaders = program_and_data(
        model, weights, data, batch_size, limit_batches, task=task, free_sizes=free_sizes
    )
    folder = out or Path("runs") / model.removesuffix(".pt2").replace("/", "-").replace(":", "-")
    with interruptible():
        results = run_comparison(
            program,
            loaders,
            out=folder,
            methods=shared.names(methods),
            engines=listed,
            bits=shared.names(bits),
            options=options,
            threads=threads,
            batch_size=latency_batch_size,
            task=chosen,
            max_drop=max_drop,
            loss=own,
            workers=workers,
            command=output.command_line(),
            say=progress.say,
        )
    float32 = next((of for row in results.rows if (of := row.float32_values)), {})
    warn_of_shortfall(promise_of(model, weights, data), float32, results.images)
    if json:
        output.print_json(record(results))
        return
    output.print_table(terminal(results), key=3)
    output.say(f"Results: {folder}/results.json, results.csv, results.md", style="dim")
    draw_or_say(folder)
