"""Training of float networks, to be quantized later."""

import dataclasses
import operator
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING

from safetensors.torch import save

from zeropoint.data.batches import Told
from zeropoint.errors import InputError
from zeropoint.files import atomic_write
from zeropoint.training import randomness
from zeropoint.training.checkpoint import beside, checkpoint
from zeropoint.training.loop import train
from zeropoint.training.options import TrainingOptions
from zeropoint.training.processes import is_first
from zeropoint.training.task import Task, Training

if TYPE_CHECKING:
    from zeropoint.data import Loaders


def train_float(
    spec: str,
    loaders: "Loaders",
    out: str | os.PathLike[str],
    options: TrainingOptions,
    *,
    weights: str = "none",
) -> Training:
    """Trains the model that ``spec`` and ``weights`` name and writes it to ``out`` (.safetensors).

    A checkpoint beside ``out`` keeps how far it has got: after an interruption the same call goes on from
    there, to the same weights.

    Raises InputError as ``train`` and ``models.resolve`` do, if there is no training data, and, before
    training, if ``out`` cannot be written.
    """
    from zeropoint import models

    if loaders.train is None:
        raise InputError(f"{loaders.name} has no training data; give digits, or loaders with a train part")
    if not os.fspath(out).endswith(".safetensors"):
        raise InputError(f"cannot write {os.fspath(out)}: name a .safetensors file")
    module = models.resolve(spec, weights)
    with atomic_write(out) if is_first() else nullcontext() as path:
        data = Told(loaders.train, "the training data")
        validation = loaders.validation
        if validation is not None:
            validation = Told(validation, "the validation data")
        same = dataclasses.replace(options, minutes=1.0)  # a resumption may save more often
        read = operator.length_hint(data), randomness.fingerprint(options.seed, data)
        kept = checkpoint(beside(out), *module.state_dict().values(), spec, loaders.name, same, read)
        result = train(Task(module), data, validation, options, checkpoint=kept)
        if path is not None:
            state = {key: value.contiguous().clone() for key, value in module.state_dict().items()}
            # Not save_file, whose files no other user may read.
            path.write_bytes(save(state, metadata={"model": spec, "data": loaders.name}))
    if path is not None:
        beside(out).unlink(missing_ok=True)
    return result
