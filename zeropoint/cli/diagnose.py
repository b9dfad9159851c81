"""``zeropoint diagnose``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from zeropoint import progress
from zeropoint.cli import options as shared
from zeropoint.cli import output
from zeropoint.errors import InputError
from zeropoint.targets.options import Options

Method = Annotated[
    str,
    typer.Option(help="The method to diagnose: dynamic, weight-only, static, static-best or qat."),
]
Engine = Annotated[
    str,
    typer.Option(
        help="The engine to quantize for and to time layers on: openvino or onnxruntime; torch and"
        " executorch time no layers."
    ),
]
Items = Annotated[
    int,
    typer.Option(
        min=1, help="Number of inputs to run, from the validation data or, if there is none, calibration."
    ),
]
MostLatency = Annotated[
    float, typer.Option(min=0, help="Largest slow-down that --apply may cause, as a fraction of latency.")
]
Apply = Annotated[
    Path | None, typer.Option(help="Apply the advice that helps, and save the Program to this .pt2 file.")
]


@shared.quantizing()
def diagnose(
    model: shared.Model,
    data: shared.Data,
    options: Options,
    method: Method = "static",
    bits: shared.Bits = "W8A8",
    engine: Engine = "openvino",
    items: Items = 64,
    top: Annotated[int, typer.Option(min=1, help="Number of worst layers to show.")] = 10,
    apply: Apply = None,
    most_latency: MostLatency = 0.1,
    weights: shared.Weights = "default",
    batch_size: shared.BatchSize = 32,
    limit_batches: shared.LimitBatches = None,
    threads: shared.Threads = 1,
    task: shared.Head = None,
    json: shared.Json = False,
) -> None:
    """Find the layers that lose accuracy, why, and what fixes them.

    It also shows what each layer costs in time. A float MODEL is quantized by the method first; a saved
    quantized one is diagnosed as it is.
    """
    from zeropoint import engines
    from zeropoint.cli.resolve import program_and_data
    from zeropoint.diagnosis import diagnose as diagnosing
    from zeropoint.methods import find
    from zeropoint.quantization import check_target, quantize
    from zeropoint.report.diagnosis import taken, terminal

    if not find(method).quantizes:
        raise InputError(f"{method} quantizes nothing; give static, static-best, dynamic, weight-only or qat")
    if apply is not None:
        shared.check_saved_name(apply)
    engines.find(engine)
    options, say = options.at(bits), progress.say
    check_target(engines.target(engine, options.processor), method, options)
    program, loaders = program_and_data(model, weights, data, batch_size, limit_batches, task=task)
    if program.method == "fp32":
        parts: dict[str, Any] = loaders.parts()
        program = quantize(program, method, **parts, target=engine, options=options)
    timed, kind = engine if engines.find(engine).layer_seconds else None, options.processor
    # Fixes are chosen by this data, so accuracy must not be evaluated on it afterwards.
    seen = loaders.calibration if loaders.validation is None else loaders.validation
    diagnosis = diagnosing.diagnose(
        program, seen, engine=timed, items=items, threads=threads, processor=kind, say=say
    )
    if json:
        output.print_json(diagnosis.as_dict())
    else:
        output.print_table(terminal(diagnosis, top))
    if apply is not None:
        better, advice = diagnosing.fixed(program, diagnosis, seen, most_latency=most_latency, processor=kind)
        better.save(apply)
        console = output.err if json else output.out
        console.print(f"{apply}: {taken(advice)}", soft_wrap=True, highlight=False, markup=False)
