"""``zeropoint evaluate``."""

from typing import Annotated

import typer

from zeropoint import progress
from zeropoint.cli import options as shared
from zeropoint.cli import output


def evaluate(
    model: shared.AnyModel,
    data: shared.Data,
    engine: Annotated[
        str | None,
        typer.Option(
            help="The engine: torch, onnxruntime, openvino, executorch, or auto, the fastest one here;"
            " default: torch, or the artefact's."
        ),
    ] = None,
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
    from zeropoint.cli.resolve import (
        compiled,
        program_and_data,
        promise_of,
        runner_and_data,
        task_of,
        told_task,
    )
    from zeropoint.data.batches import Loader
    from zeropoint.engines.artefact import is_compiled
    from zeropoint.measure.evaluate import Fitting, Run, evaluate_all
    from zeropoint.measure.promise import warn_of_shortfall
    from zeropoint.measure.simulate import on_processor
    from zeropoint.report.bench import chosen, evaluated, measured
    from zeropoint.targets.processor import find

    task = told_task(task, data)
    read = task_of(task, metric, higher_is_better, postprocess)
    simulated = None if processor is None else find(processor).name
    run: Run
    fitting: Loader
    choice, where = None, f"simulated on {simulated}"
    if is_compiled(model) and simulated is None:
        run, loaders = runner_and_data(model, engine, data, batch_size, limit_batches)
        fitting, where = loaders.evaluation, run.engine
    else:
        program, loaders = program_and_data(model, weights, data, batch_size, limit_batches, task=task)
        fitting = Fitting(loaders.evaluation, program)
        if simulated is not None:
            run = on_processor(program, simulated)
        else:
            chosen_engine = engine or "torch"
            run, choice = compiled(
                program, chosen_engine, threads=None, batch_size=batch_size, say=progress.say
            )
            where = run.engine
    if choice is not None and not json:
        output.say(chosen(choice))
    evaluation = evaluate_all({"": run}, fitting, task=read, own=loaders.evaluation)[""]
    warn_of_shortfall(promise_of(model, weights, data), evaluation.values, evaluation.accuracy.images)
    if json:
        output.print_json(evaluated(model, loaders.name, where, evaluation, choice))
    else:
        output.say(measured(evaluation, loaders.name, where))
