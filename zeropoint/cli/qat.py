"""``zeropoint qat``."""

from pathlib import Path
from typing import Annotated

import typer

from zeropoint.cli import options as shared
from zeropoint.cli import output
from zeropoint.cli.run import interruptible
from zeropoint.errors import InputError
from zeropoint.targets.options import Options

Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Continue the training in the folder, to the same result or with more --epochs."
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(help="Float model that teaches a quantized MODEL; default: a float MODEL teaches itself."),
]


@shared.quantizing(epochs=10)
def qat(
    model: shared.Model,
    data: shared.Data,
    out: Annotated[Path, typer.Option(help="Folder of the training.")],
    options: Options,
    resume: Resume = False,
    bits: shared.Bits = "W8A8",
    target: Annotated[
        str, typer.Option(help="The engine to quantize for: torch, onnxruntime, openvino or executorch.")
    ] = "openvino",
    teacher: Teacher = None,
    weights: shared.Weights = "default",
    batch_size: shared.BatchSize = 32,
    limit_batches: shared.LimitBatches = None,
    task: shared.Task = None,
    loss: shared.Loss = None,
) -> None:
    """Quantization-aware training in a folder, which can be resumed.

    After Ctrl-C, SIGTERM or a crash, the same command with --resume continues to the same result.

    A float MODEL is quantized by static first; a saved quantized one is trained as it is. With more
    --epochs than before, --resume uses the learning rates of a training of that many epochs for the steps
    that are left.

    For several processes, GPUs or machines, put this before qat: torchrun --nproc-per-node N -m zeropoint
    """
    from zeropoint.cli.resolve import loss_of, program_and_data, silent, told_task
    from zeropoint.measure.size import on_disk
    from zeropoint.methods import label
    from zeropoint.quantization import train_quantized
    from zeropoint.training.folder import Folder
    from zeropoint.training.processes import is_first

    task = told_task(task, data)
    own = loss_of(loss, task)
    program, loaders = program_and_data(model, weights, data, batch_size, limit_batches, task=task)
    if loaders.train is None:
        raise InputError(f"{loaders.name} has no training data; add a train loader")
    taught = (
        None
        if teacher is None
        else program_and_data(teacher, weights, data, batch_size, 1, task=task, say=silent)[0]
    )
    with interruptible("the same command with --resume continues from there", Folder(out).checkpoint):
        trained = train_quantized(
            program,
            loaders.train,
            calibration=loaders.calibration,
            validation=loaders.validation,
            target=target,
            options=options.at(bits),
            teacher=taught,
            folder=out,
            resume=resume,
            loss=own,
        )
    if is_first():
        file, seconds = Folder(out).program, trained.quantize_seconds
        size = on_disk(file) / 1e6
        output.say(f"{label(trained)} for {trained.target} in {seconds:.1f} s: {file}, {size:.2f} MB")
