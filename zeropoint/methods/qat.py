"""Quantization-aware training: fine-tuning the statically quantized graph with its quantizers in it.

Weights, biases and step sizes learn together: LSQ (Esser et al. 2020, "Learned Step Size Quantization").
"""

import dataclasses

from zeropoint.batches import Loader
from zeropoint.methods.learnable import constant, learnable
from zeropoint.methods.static import static
from zeropoint.options import Options
from zeropoint.program import Program
from zeropoint.target import Target
from zeropoint.training import train


def qat(
    program: Program,
    target: Target,
    calibration: Loader,
    options: Options,
    train_data: Loader,
    validation: Loader | None = None,
) -> Program:
    """The Program after static quantization and ``options.epochs`` of training on labelled ``train_data``.

    The epoch with the best accuracy on ``validation`` is kept, the last one where there is no such data.
    """
    start = static(program, target, calibration, options)
    module, places = learnable(start)
    steps = {place.scale for place in places}
    named = dict(module.named_parameters())
    groups = [
        {
            "params": [p for name, p in named.items() if name not in steps and p.dim() > 1],
            "weight_decay": 1e-5,
        },
        {
            "params": [p for name, p in named.items() if name not in steps and p.dim() <= 1],
            "weight_decay": 0.0,
        },
        # A step size is decayed by nothing, and is small: the learning rate of weights would throw it about.
        {"params": [named[name] for name in steps], "weight_decay": 0.0, "lr": options.learning_rate / 10},
    ]
    train(
        module,
        train_data,
        validation,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        optimizer="adamw",
        parameter_groups=groups,
        seed=options.seed,
    )
    constant(module, places)
    return dataclasses.replace(start, module=module, method="qat")
