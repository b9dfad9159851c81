"""Evaluate: one streaming pass over the data for any number of runs of the same model."""

import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zeropoint import tasks
from zeropoint.data.batches import FlatBatch, Loader, class_names, limit, split
from zeropoint.errors import InputError
from zeropoint.graph.hidden import without_hidden
from zeropoint.graph.program import Program, flat_tensors
from zeropoint.graph.signature import flattened
from zeropoint.graph.sizes import check_inputs
from zeropoint.measure.fidelity import Fidelity, FidelityMeter
from zeropoint.measure.worst import Pair, Worst, WorstMeter
from zeropoint.progress import track
from zeropoint.tasks import Measure, Metric, Task
from zeropoint.tasks.bootstrap import Blocks, Change, change
from zeropoint.tasks.metric import Score, Sums
from zeropoint.tasks.outputs import main, samples

Run = Callable[..., Any]
"""Anything that computes the model: a Runner, a Program, or a function of its input tensors."""


@dataclass(frozen=True)
class Accuracy:
    """``top1`` (a fraction of 1) and mean ``loss``, None if not measured, and the number of ``images``."""

    top1: float | None
    loss: float | None
    images: int


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a run, and its closeness to float32 and to the simulation of its Program.

    ``accuracy``: top-1 of a classifier as a fraction of 1, the task's mean loss (of a classifier in nats),
    and the number of samples. ``values``: every metric by name, those in percent as fractions of 1.
    ``change``: that of the first metric from float32, with its 95% interval. ``fidelity`` and ``parity``:
    SQNR in dB, and agreement in the task's terms, to float32 and to the simulation. ``measures`` and
    ``agreement``: names, units and directions of metrics and agreement. ``worst``: the samples and classes
    that moved most from float32, if they were asked for. What was not measured is None.

    >>> evaluation = zp.evaluate(program, batches)
    >>> 0 <= evaluation.accuracy.top1 <= 1
    True
    >>> evaluation.values == {"top-1": evaluation.accuracy.top1}
    True
    >>> evaluation.fidelity is None
    True
    """

    accuracy: Accuracy
    fidelity: Fidelity | None = None
    parity: Fidelity | None = None
    values: dict[str, float | None] = field(default_factory=dict)
    change: Change | None = None
    task: str = "none"
    measures: tuple[Measure, ...] = ()
    agreement: Measure | None = None
    worst: Worst | None = None


@dataclass(frozen=True)
class Fitting:
    """The batches of ``data``, each found to fit ``program`` as it is read.

    Raises InputError, with the number of the batch, if the inputs have another shape, or hold NaN or Inf.
    """

    data: Loader
    program: Program

    def __iter__(self) -> Iterator[FlatBatch]:
        for i, batch in enumerate(self.data, start=1):
            found = self.program.signature.batch(batch)
            check_inputs(self.program.module, found.inputs, f"evaluation batch {i}")
            yield found

    def __length_hint__(self) -> int:
        return operator.length_hint(self.data)


def evaluate(
    run: Run,
    data: Loader,
    *,
    float32: Run | None = None,
    task: str | Task | None = None,
    metrics: Any = (),
    higher_is_better: bool | None = None,
    postprocess: Callable[[Any], Any] | None = None,
) -> Evaluation:
    """The metrics of ``run`` on ``data``, and its fidelity to the run ``float32`` if one is given.

    ``run`` is a Program, a Runner, or any function from input tensors to output tensors. ``data`` yields
    batches of inputs, or of inputs and targets. The ``task`` says what outputs and targets mean; without one
    it is classification, for integer targets (N,), or without targets none. ``metrics`` is one or several, in
    place of the task's: names of it, functions of outputs and targets, functions of a model and a loader, or
    torchmetrics Metrics. ``higher_is_better`` is the direction of functions, by default True. ``postprocess``
    makes what metrics read of a batch's outputs.

    Raises InputError if the data is empty, targets do not fit the task, or a metric fails.

    >>> evaluation = zp.evaluate(quantized, batches, float32=program)
    >>> evaluation.accuracy.images
    16
    >>> evaluation.fidelity.sqnr_db > 20
    True
    >>> def second(outputs, labels):
    ...     return (outputs.topk(2).indices == labels[:, None]).any(1).float()
    >>> 0 <= zp.evaluate(quantized, batches, metrics=second).values["second"] <= 1
    True
    """
    made = tasks.made(task, metrics, higher_is_better, postprocess)
    return evaluate_all({"": run}, data, float32=float32, task=made, own=data)[""]


def evaluate_all(
    runs: Mapping[str, Run],
    data: Loader,
    *,
    float32: Run | None = None,
    simulation: Run | None = None,
    task: Task | None = None,
    own: Loader | None = None,
    keep_worst: bool = False,
    description: str = "evaluating",
) -> dict[str, Evaluation]:
    """The Evaluation of each run, all from one pass over the data; the references run once per batch.

    ``own``: the data as the user gave it, for metrics that are functions of a model and a loader.
    ``keep_worst``: whether an Evaluation, but those of the references, has its ``worst``.
    """
    known = (getattr(one, "signature", None) for one in (*runs.values(), float32))
    if signature := next(filter(None, known), None):
        data = flattened(data, signature, "the evaluation data")
    views = {id(one): _View(one) for one in (float32, simulation, *runs.values()) if one is not None}
    own = data if own is None else own
    references = [views[id(one)] if one is not None else None for one in (float32, simulation)]
    wanted = [view for key, view in views.items() if view is references[0] or key in map(id, runs.values())]
    gathered: dict[int, _Gathered] = {}
    for batch in track(data, description):
        inputs, targets = split(batch)
        for view in filter(None, references):
            view.see(inputs, task)
        for view in wanted:
            if view not in references:
                view.see(inputs, task)
            task = task or tasks.fitting(view.read, targets)
            if id(view.run) not in gathered:
                worst = None
                if keep_worst and references[0] and view not in references:
                    worst = WorstMeter(task, class_names(own))
                gathered[id(view.run)] = _Gathered(task, view, references, worst)
            gathered[id(view.run)].add(inputs, targets)
            if view not in references:
                view.forget()
    if not gathered:
        raise InputError("the evaluation data is empty; give at least one batch")
    reference = gathered.get(id(float32))
    return {name: gathered[id(run)].result(own, reference) for name, run in runs.items()}


def check(run: Run, data: Loader, task: Task | None, own: Loader | None = None) -> Evaluation:
    """The Evaluation of the first two batches; arguments are those of ``evaluate_all``.

    Raises InputError if the task fails for them, or a metric of them is no finite number.
    """
    first = limit(own, 2) if own is not None else None
    evaluation = evaluate_all({"": run}, limit(data, 2), task=task, own=first)[""]
    for name, value in evaluation.values.items():
        if value is None or not math.isfinite(value):
            raise InputError(f"the metric {name} of float32 is {value} on the first batches of the data")
    return evaluation


class _View:
    """The outputs of a run on the batch at hand: flat, in the model's own structure, and postprocessed."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def see(self, inputs: tuple[Tensor, ...], task: Task | None) -> None:
        """Runs the model."""
        outputs = getattr(self.run, "flat", self.run)(*inputs)
        self.flat = flat_tensors(outputs)
        signature = getattr(self.run, "signature", None)
        self.names: tuple[str, ...] = signature.input_names if signature else ()
        self.nested = signature.nested(self.flat) if signature else outputs
        if isinstance(self.nested, tuple) and len(self.nested) == 1:
            self.nested = self.nested[0]
        self.read = task.postprocessed(self.nested) if task else self.nested

    def forget(self) -> None:
        """Frees the outputs."""
        self.flat, self.nested, self.read = (), None, None


class _Gathered:
    """What one run adds up to, batch by batch."""

    def __init__(
        self,
        task: Task,
        view: _View,
        references: Sequence[_View | None],
        worst: WorstMeter | None,
    ) -> None:
        self._task, self._view = task, view
        self._references = [(one, FidelityMeter(task.fidelity)) for one in references]
        self._scores = [Score(metric) for metric in task.metrics if metric.whole is None]
        self._loss = Score(_loss(task))
        self._samples, self._worst = 0, worst
        self.blocks: Blocks | None = None

    def add(self, inputs: tuple[Tensor, ...], targets: Any) -> None:
        """Counts a batch, whose outputs the view has."""
        count = _count(inputs, self._view.read)
        self._samples += count
        for place, score in enumerate(self._scores):
            if targets is None and score.metric.needs_targets:
                _missing(score.metric, self._task)
            self._keep(score, score.add(self._view.read, targets), first=place == 0)
        if self._task.loss and isinstance(targets, Tensor) and not self._task.postprocess:
            self._loss.add(self._view.nested, targets)
        for reference, meter in self._references:
            if reference is not None:
                read = self._view.read, reference.read, targets
                names = self._view.names
                wanted, found = (without_hidden(names, inputs, one.flat) for one in (reference, self._view))
                batch = meter.add(wanted, found, read)
                if reference is not self._references[0][0]:
                    continue
                if meter.score and not self._task.metrics:
                    self._keep(meter.score, batch, first=True)
                if self._worst:
                    self._worst.add(Pair(inputs, self._view.flat, reference.flat, read), batch, count)

    def _keep(self, score: Score, batch: tuple[Any, ...], first: bool) -> None:
        """Blocks of the first metric, or without any of the fidelity to float32."""
        if first and self._references[0][0] is not None and score.meter is not None:
            self.blocks = self.blocks or Blocks(score.meter)
            self.blocks.add(batch)

    def result(self, data: Loader, reference: "_Gathered | None") -> Evaluation:
        """The Evaluation of all batches; ``reference`` is that of float32."""
        values: dict[str, float | None] = {score.metric.name: score.value() for score in self._scores}
        values |= self._task.whole_values(self._view.run, data)
        values = {metric.name: values[metric.name] for metric in self._task.metrics}
        fidelity, parity = (meter.result() if one else None for one, meter in self._references)
        return Evaluation(
            Accuracy(values.get("top-1"), self._loss.value(), self._samples),
            fidelity,
            parity,
            values,
            self._change(reference) if reference else None,
            self._task.name,
            tuple(metric.measure for metric in self._task.metrics),
            self._task.fidelity.measure if self._task.fidelity else None,
            self._worst.result() if self._worst else None,
        )

    def _change(self, reference: "_Gathered") -> Change | None:
        """The first metric's change from float32; without a metric, the agreement's from 1."""
        if self._scores:
            value, other = self._scores[0].value(), reference._scores[0].value()
        elif self._task.metrics or self._task.fidelity is None or self._task.fidelity.measure.unit != "%":
            return None
        else:
            value, other = (one._references[0][1].result().agreement for one in (self, reference))
        if value is None or other is None:
            return None
        return change(value, other, self.draws, reference.draws)

    @functools.cached_property
    def draws(self) -> list[float] | None:
        """The first metric of each resample."""
        score = self._scores[0] if self._scores else self._references[0][1].score
        if self.blocks is None or score is None or score.meter is None:
            return None
        return self.blocks.draws(score.metric, score.meter.metric_state)


def _count(inputs: tuple[Tensor, ...], outputs: Any) -> int:
    """The samples of a batch. The inputs of a model that gives a list, as a detector, are one each."""
    return samples(outputs) if isinstance(outputs, list) else len(inputs[0]) if inputs[0].dim() else 1


def _missing(metric: Metric, task: Task) -> None:
    raise InputError(
        f"the data has no targets, and {metric.name} needs them; give batches of (inputs, targets), or"
        f" --task none to compare with float32 alone"
    )


def _loss(task: Task) -> Metric:
    """The task's loss as a metric, in float64."""

    def prepare(outputs: Any, targets: Any) -> tuple[Tensor]:
        assert task.loss is not None
        count = samples(outputs)
        return (torch.tensor([float(task.loss(main(outputs).double(), targets)) * count, count]),)

    return Metric(Measure("loss", "", False), lambda *_: Sums(lambda sums: sums), prepare)
