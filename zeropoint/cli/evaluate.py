"""``zeropoint evaluate``."""

from typing import Annotated

import typer

from zeropoint import progress
from zeropoint.cli import options as shared
from zeropoint.cli import output


def evaluate(
    model: shared.Model,
    data: shared.Data,
    engine: Annotated[
        str,
        typer.Option(
            help="The engine: torch, onnxruntime, openvino, or auto, the fastest one on this machine."
        ),
    ] = "torch",
    processor: Annotated[
        str | None,
        typer.Option(
            help="Simulate the arithmetic of a processor, on no engine: avx2, avx512, vnni, amx, arm, any."
        ),
    ] = None,
    weights: shared.Weights = "default",
    batch_size: shared.BatchSize = 32,
    limit_batches: shared.LimitBatches = None,
    task: shared.Task = None,
    metric: shared.Metrics = None,
    higher_is_better: shared.HigherIsBetter = None,
    postprocess: shared.Postprocess = None,
    json: shared.Json = False,
) -> None:
    """Measure the metrics of one model.

    It runs on an engine, or in a simulation of the arithmetic of a processor.
    """
    from zeropoint.cli.resolve import compiled, program_and_data, task_of
    from zeropoint.measure.evaluate import Fitting, Run, evaluate_all
    from zeropoint.measure.simulate import on_processor
    from zeropoint.report.bench import chosen, evaluated, measured
    from zeropoint.targets.processor import find

    read = task_of(task, metric, higher_is_better, postprocess)
    simulated = None if processor is None else find(processor).name
    program, loaders = program_and_data(model, weights, data, batch_size, limit_batches)
    run: Run
    if simulated is not None:
        run, choice, where = on_processor(program, simulated), None, f"simulated on {simulated}"
    else:
        run, choice = compiled(program, engine, threads=None, batch_size=batch_size, say=progress.say)
        where = run.engine
    if choice is not None and not json:
        output.say(chosen(choice))
    fitting = Fitting(loaders.evaluation, program)
    evaluation = evaluate_all({"": run}, fitting, task=read, own=loaders.evaluation)[""]
    if json:
        output.print_json(evaluated(model, loaders.name, where, evaluation, choice))
    else:
        output.say(measured(evaluation, where))
