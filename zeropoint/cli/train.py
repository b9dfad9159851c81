"""``zeropoint train``."""

from pathlib import Path
from typing import Annotated

import typer

from zeropoint import progress
from zeropoint.cli import options as shared
from zeropoint.cli import output
from zeropoint.cli.run import interruptible
from zeropoint.training.options import TrainingOptions


@shared.training(epochs=30, learning_rate=0.1, optimizer="sgd", weight_decay=5e-4)
def train(
    model: shared.Model,
    data: shared.Data,
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    options: TrainingOptions,
    weights: Annotated[str, typer.Option(help="Weights to start from, as for compare.")] = "none",
    batch_size: shared.BatchSize = 32,
    limit_batches: shared.LimitBatches = None,
) -> None:
    """Train a float classifier and save its weights. If interrupted, the same command goes on."""
    from zeropoint import data as data_sets
    from zeropoint.training.checkpoint import beside
    from zeropoint.training.floats import train_float

    loaders = data_sets.resolve(
        data, batch_size=batch_size, limit_batches=limit_batches, seed=options.seed, say=progress.say
    )
    with progress.about(f"training {model}"), interruptible(earlier=beside(out)):
        result = train_float(model, loaders, out, options, weights=weights)
    score = "" if result.accuracy is None else f", validation top-1 {result.accuracy:.2%}"
    output.say(f"kept epoch {result.epoch} of {options.epochs}{score}: {out}")
