"""Quantization-aware training as a run of its own, kept in a folder."""

import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from zeropoint import engines
from zeropoint.batches import Loader
from zeropoint.checkpoint import fingerprint
from zeropoint.methods import check_target
from zeropoint.methods.qat import fine_tuned, qat
from zeropoint.options import Options
from zeropoint.program import Program
from zeropoint.target import Target
from zeropoint.training.folder import Folder, open_folder
from zeropoint.training.loop import check_data
from zeropoint.training.processes import is_first


def train_quantized(
    program: Program,
    train: Loader,
    *,
    calibration: Loader | None = None,
    validation: Loader | None = None,
    target: str | Target = "openvino",
    options: Options | None = None,
    teacher: Program | None = None,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> Program:
    """The Program after quantization-aware training on labelled batches of ``train``.

    A float ``program`` is quantized by ``static`` on ``calibration`` first, by default on the training data,
    and teaches beside the labels. A quantized one is trained as it is, with its own bits and target, and by
    the float ``teacher`` if one is given. ``validation`` chooses among epochs.

    ``folder`` keeps ``last.checkpoint``, ``metrics.jsonl`` and, in the end, ``program.pt2``. With ``resume``
    the training in it goes on, to the weights that it would have had without the interruption. Of several
    processes that ``torchrun`` started the first one writes, and all give back the Program.

    Raises InputError for data that cannot be trained on, a folder that holds another training, and as
    ``quantize`` does.
    """
    options = options or Options()
    if program.method != "fp32":
        target = program.target
        options = options.at(f"W{program.weight_bits}A{program.activation_bits}")
        program = replace(program, processor=program.processor or options.processor)
        options = replace(options, processor=program.processor)
    rules = engines.target(target, options.processor) if isinstance(target, str) else target
    check_target(rules, "qat", options)
    (logits, *_) = program(*program.example_inputs)
    check_data(train, logits.shape[-1])
    place = None if folder is None else Folder(Path(folder))
    if place is not None and is_first():
        open_folder(place, _settings(program, rules, options), resume=resume)
    started = time.perf_counter()
    if program.method == "fp32":
        data = train if calibration is None else calibration
        trained = qat(program, rules, data, options, train, validation, folder=place)
    else:
        trained = fine_tuned(program, teacher, options, train, validation, folder=place)
    trained = replace(trained, quantize_seconds=time.perf_counter() - started)
    if place is not None and is_first():
        trained.save(place.program)
    return trained


def _settings(program: Program, target: Target, options: Options) -> dict[str, Any]:
    """What must be the same for a training to go on, as plain values."""
    chosen = asdict(options)
    recipe = chosen.pop("training")
    recipe.pop("minutes")  # between checkpoints: they may come more often from now on
    started_from = {"model": program.origin, "weights": fingerprint(program), "start": program.method}
    return {**started_from, "target": target.name, "bits": options.bits, **chosen, **recipe}
