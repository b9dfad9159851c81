"""Compare parts: a model whole in PyTorch, and with its parts on engines, row by row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from zeropoint.data.batches import Batch, Loader
from zeropoint.engines import installed
from zeropoint.errors import InputError, first_line
from zeropoint.graph.capture import unwrapped
from zeropoint.measure.latency import Latency, interleave, paired_ratio, summarize
from zeropoint.methods import named
from zeropoint.parts.decoder import DECODER, generation, perplexity
from zeropoint.parts.quantize import AUTO, quantize_parts
from zeropoint.parts.replace import copied
from zeropoint.parts.survey import Reading, Use, usual
from zeropoint.targets.options import Options
from zeropoint.tasks import Task
from zeropoint.tasks.metric import Score

WHOLE = "PyTorch, whole"
SECONDS = 1.0  # spent timing, for each row
TOKENS = 32  # that a decoder generates at a time


@dataclass(frozen=True)
class PartsRow:
    """A model with parts of one method on one engine; the first row is the float model, whole in PyTorch.

    ``share`` is what the parts do of the multiply-accumulates, 0 to 1, ``sqnr_db`` the least SQNR of the
    outputs of the whole model to the float one's, None if shapes differ. ``values`` has the metrics of the
    whole on the evaluation data, if a task is given; those in percent are fractions of 1. ``latency_ms`` is
    of the whole model on one batch, ``speedup`` over the first row. A decoder also has its perplexity on the
    evaluation data and the tokens that it generates in a second, and its latency is that of TOKENS of them.
    ``error``: one line where the row failed.
    """

    method: str
    engine: str
    parts: int = 0
    share: float = 0.0
    sqnr_db: float | None = None
    values: dict[str, float | None] = field(default_factory=dict)
    latency_ms: Latency | None = None
    speedup: float | None = None
    perplexity: float | None = None
    tokens_per_second: float | None = None
    error: str | None = None


def compare_parts(
    model: nn.Module,
    calibration: Loader,
    evaluation: Loader,
    *,
    methods: Sequence[str],
    engines: Sequence[str] | None = None,
    parts: str | Sequence[str] = AUTO,
    options: Options | None = None,
    task: Task | None = None,
    threads: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> list[PartsRow]:
    """A row for the float model and one for every method and engine, timed in turns on one evaluation batch.

    ``task``: its metrics of the whole model are measured on the evaluation data. The other arguments are
    those of ``quantize_parts``. A row that fails has an ``error``, the rest goes on.
    """
    options = options or Options()
    network = copied(unwrapped(model))
    use, batch = usual(network, evaluation), next(iter(evaluation))
    float32 = PartsRow("fp32", WHOLE, values=_values(network, use, evaluation, task))
    rows, models = [float32], [network]
    for method in methods:
        for engine in installed() if engines is None else engines:
            row = PartsRow(named(method, options), engine)
            say(f"{row.method} parts on {engine}")
            try:
                made = quantize_parts(
                    network,
                    calibration,
                    method=method,
                    engine=engine,
                    parts=parts,
                    options=options,
                    threads=threads,
                )
                values = _values(made.model, use, evaluation, task)
                row = replace(row, parts=len(made.parts), share=made.share, sqnr_db=made.sqnr_db)
                rows.append(replace(row, values=values))
                models.append(made.model)
            except InputError as error:
                rows.append(replace(row, error=first_line(error)))
    say("timing")
    if parts not in (DECODER, [DECODER]):
        return _timed(rows, models, use, batch, threads)
    timed = _timed(rows, models, lambda one, batch: generation(one, batch, TOKENS), batch, threads)
    told = (perplexity(model, evaluation) for model in models)
    return [
        replace(row, perplexity=next(told), tokens_per_second=1e3 * TOKENS / row.latency_ms.p50)
        if row.latency_ms
        else row
        for row in timed
    ]


def _values(model: nn.Module, use: Reading, batches: Loader, task: Task | None) -> dict[str, float | None]:
    """The metrics of a model by name."""
    if task is None:
        return {}
    scores = [Score(metric) for metric in task.metrics if metric.whole is None]
    with torch.no_grad():
        for batch in batches if scores else ():
            outputs = task.postprocessed(use(model, batch))
            for score in scores:
                score.add(outputs, use.targets(batch))
        values = {score.metric.name: score.value() for score in scores} | task.whole_values(model, batches)
    return {metric.name: values[metric.name] for metric in task.metrics}


def _timed(
    rows: list[PartsRow], models: list[nn.Module], use: Use, batch: Batch, threads: int
) -> list[PartsRow]:
    """The rows with the latency of their models: of those that did not fail, in order."""
    able = [number for number, row in enumerate(rows) if row.error is None]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            runs = {str(n): lambda one=one: use(one, batch) for n, one in zip(able, models, strict=True)}
            samples = interleave(runs, seconds=SECONDS * len(runs), min_rounds=10)
    finally:
        torch.set_num_threads(before)
    return [
        row
        if str(number) not in samples
        else replace(
            row,
            latency_ms=summarize(samples[str(number)]),
            speedup=paired_ratio(samples["0"], samples[str(number)]).median,
        )
        for number, row in enumerate(rows)
    ]
