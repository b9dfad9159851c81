"""Evaluate: one streaming pass over the data for any number of runs of the same model."""

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from zeropoint.data.batches import Batch, Loader, split
from zeropoint.errors import InputError
from zeropoint.graph.program import Program
from zeropoint.graph.sizes import check_inputs
from zeropoint.measure.accuracy import Accuracy, AccuracyMeter
from zeropoint.measure.fidelity import Fidelity, FidelityMeter
from zeropoint.progress import track

Run = Callable[..., tuple[Tensor, ...]]
"""Anything that computes the model: a Runner, or a Program."""


@dataclass(frozen=True)
class Evaluation:
    """The accuracy of a run, and its closeness to float32 and to the simulation of its Program.

    ``accuracy``: top-1 as a fraction of 1, mean loss in nats, number of images. ``fidelity`` and ``parity``:
    SQNR in dB, and agreement of the predicted class as a fraction of 1, to float32 and to the simulation;
    None if there was nothing to compare with.

    >>> evaluation = zp.evaluate(program, batches)
    >>> 0 <= evaluation.accuracy.top1 <= 1
    True
    >>> evaluation.fidelity is None
    True
    """

    accuracy: Accuracy
    fidelity: Fidelity | None = None
    parity: Fidelity | None = None


@dataclass(frozen=True)
class Fitting:
    """The batches of ``data``, each found to fit ``program`` as it is read.

    Raises InputError, with the number of the batch, if the inputs have another shape, or hold NaN or Inf.
    """

    data: Loader
    program: Program

    def __iter__(self) -> Iterator[Batch]:
        for number, batch in enumerate(self.data, start=1):
            check_inputs(self.program.module, split(batch)[0], f"evaluation batch {number}")
            yield batch

    def __length_hint__(self) -> int:
        return operator.length_hint(self.data)


def evaluate(run: Run, data: Loader, *, float32: Run | None = None) -> Evaluation:
    """Top-1 and loss of ``run`` on ``data``, and its fidelity to the run ``float32`` if one is given.

    ``run`` is a Program, a Runner, or any function from input tensors to a tuple of output tensors. ``data``
    yields batches of inputs, or of inputs and labels: integers of shape (N,) for a first output of shape
    (N, classes). Without labels, top-1 and loss are None.

    Raises InputError if the data is empty, or labels are not classes of the model.

    >>> evaluation = zp.evaluate(quantized, batches, float32=program)
    >>> evaluation.accuracy.images
    16
    >>> evaluation.fidelity.sqnr_db > 20
    True
    """
    return evaluate_all({"": run}, data, float32=float32)[""]


def evaluate_all(
    runs: Mapping[str, Run],
    data: Loader,
    *,
    float32: Run | None = None,
    simulation: Run | None = None,
    description: str = "evaluating",
) -> dict[str, Evaluation]:
    """The Evaluation of each run, all from one pass over the data; the references run once per batch."""
    accuracy = {name: AccuracyMeter() for name in runs}
    fidelity = {name: FidelityMeter() for name in runs}
    parity = {name: FidelityMeter() for name in runs}
    batches = 0
    for batch in track(data, description):
        batches += 1
        inputs, labels = split(batch)
        expected = float32(*inputs) if float32 else None
        simulated = simulation(*inputs) if simulation else None
        for name, run in runs.items():
            known = simulated if run is simulation else expected if run is float32 else None
            outputs = run(*inputs) if known is None else known
            accuracy[name].add(outputs[0], labels)
            if expected is not None:
                fidelity[name].add(expected, outputs)
            if simulated is not None:
                parity[name].add(simulated, outputs)
    if not batches:
        raise InputError("the evaluation data is empty; give at least one batch")
    return {
        name: Evaluation(
            accuracy[name].result(),
            fidelity[name].result() if float32 else None,
            parity[name].result() if simulation else None,
        )
        for name in runs
    }
