"""``zeropoint quantize``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from zeropoint import progress
from zeropoint.cli import options as shared
from zeropoint.cli import output
from zeropoint.cli.run import interruptible
from zeropoint.errors import InputError
from zeropoint.targets.options import Options

Method = Annotated[
    str, typer.Option(help="The method: bf16, dynamic, weight-only, static, static-best or qat.")
]
Target = Annotated[
    str,
    typer.Option(
        help="The engine to quantize for: torch, onnxruntime, openvino, executorch, or auto, the fastest"
        " of the first three here at batch 1 on one thread; or a runtime to export to: tensorrt, qnn."
    ),
]


@shared.quantizing()
def quantize(
    model: shared.Model,
    out: Annotated[Path, typer.Option(help="The .pt2 file to write, or with --parts the new folder.")],
    options: Options,
    method: Method = "static",
    data: Annotated[
        str | None, typer.Option(help="Data for static, static-best and qat, as for compare.")
    ] = None,
    target: Target = "openvino",
    bits: shared.Bits = "W8A8",
    weights: shared.Weights = "default",
    batch_size: shared.BatchSize = 32,
    limit_batches: shared.LimitBatches = None,
    free_sizes: shared.FreeSizes = False,
    parts: shared.Parts = None,
    task: shared.Task = None,
    loss: shared.Loss = None,
) -> None:
    """Quantize a model by one method and save it as a .pt2 file.

    Plain PyTorch opens the file, too. The same command again continues a static-best or qat that was
    interrupted.
    """
    from zeropoint import exports
    from zeropoint.cli.resolve import AUTO, loss_of, program_and_data, told_task
    from zeropoint.measure.size import on_disk
    from zeropoint.methods import find, label
    from zeropoint.quantization import check_target
    from zeropoint.quantization import quantize as run_method
    from zeropoint.report.bench import chosen
    from zeropoint.training.checkpoint import beside
    from zeropoint.tuning.choose import fastest_target

    task = told_task(task, data)
    if find(method).needs("calibration") and data is None:
        raise InputError(f"method '{method}' calibrates on data; give --data")
    options = options.at(bits)
    if parts is not None:
        from zeropoint.cli import parts as of_parts

        of_parts.refuse(
            {
                "--loss": (loss is not None, of_parts.NO_LOSS),
                "--free-sizes": (free_sizes, of_parts.NO_FREE_SIZES),
            }
        )
        given = of_parts.opened(model, weights, task, data, batch_size, limit_batches)
        of_parts.quantize(given, parts, out, method, target, options)
        return
    shared.check_saved_name(out)
    own = loss_of(loss, task)
    if target != AUTO:
        check_target(exports.target(target, options.processor), method, options)
    program, loaders = program_and_data(
        model, weights, data, batch_size, limit_batches, task=task, free_sizes=free_sizes
    )
    read: dict[str, Any] = loaders.parts() if data is not None else {}
    if target == AUTO:
        quantized, choice = fastest_target(
            program, method, **read, options=options, loss=own, say=progress.say
        )
        target = choice.engine
        output.say(chosen(choice))
    else:
        with interruptible(earlier=beside(out)):
            quantized = run_method(
                program, method, **read, target=target, options=options, checkpoint=beside(out), loss=own
            )
    quantized.save(out)
    beside(out).unlink(missing_ok=True)
    seconds, size = quantized.quantize_seconds, on_disk(out) / 1e6
    output.say(f"{label(quantized)} for {target} in {seconds:.1f} s: {out}, {size:.2f} MB")
