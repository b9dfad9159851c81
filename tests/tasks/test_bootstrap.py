"""Intervals of the change of a metric, against NumPy and against what is known."""

import numpy as np
import pytest
import torch

from zeropoint import tasks
from zeropoint.tasks import bootstrap
from zeropoint.tasks.bootstrap import Blocks, change
from zeropoint.tasks.metric import Score, library
from zeropoint.tasks.own import metric

generator = torch.Generator().manual_seed(0)
SCORES, LABELS = torch.randn(400, 5, generator=generator), torch.randint(5, (400,), generator=generator)
IMAGES = SCORES.reshape(20, 1, 10, 10).sigmoid()
OTHER = SCORES + 0.5 * torch.randn(400, 5, generator=generator)


def run(one, outputs, targets, size=32):
    """Score, and the blocks of the same batches."""
    score, blocks = Score(one), None
    for i in range(0, len(outputs), size):
        batch = score.add(outputs[i : i + size], targets[i : i + size])
        blocks = blocks or Blocks(score.meter)
        blocks.add(batch)
    return score, blocks


def changed(one, outputs, reference, targets, size=32):
    runs = [run(one, each, targets, size) for each in (outputs, reference)]
    values = [score.value() for score, _ in runs]
    return change(*values, *(blocks.draws(one, score.meter.metric_state) for score, blocks in runs))


def test_the_interval_of_top_1_is_that_of_paired_differences():
    (top1,) = tasks.find("classification").metrics
    hits = [(one.argmax(1) == LABELS).double().numpy() for one in (OTHER, SCORES)]
    differences = hits[0] - hits[1]
    margin = 1.96 * differences.std() / np.sqrt(400)
    found = changed(top1, OTHER, SCORES, LABELS)
    assert found.value == pytest.approx(differences.mean())
    assert (found.high - found.low) / 2 == pytest.approx(margin, rel=0.15)  # of 200 resamples
    # Without pairs it would be much wider: most samples are right or wrong in both.
    alone = 1.96 * np.sqrt(hits[0].var() + hits[1].var()) / 20
    assert found.high - found.low < 1.6 * alone


def test_equal_outputs_have_no_change():
    (top1,) = tasks.find("classification").metrics
    assert changed(top1, SCORES, SCORES, LABELS) == bootstrap.Change(0, 0, 0)


def test_blocks_are_joined_and_add_up(monkeypatch):
    monkeypatch.setattr(bootstrap, "MOST", 16)
    (top1,) = tasks.find("classification").metrics
    score, blocks = run(top1, SCORES, LABELS, 7)
    assert len(blocks.states) == 400 // 32 + 1
    total = sum(state["total"] for state in blocks.states)
    assert torch.equal(total, score.meter.total)
    assert [float(state["total"][1]) for state in blocks.states[:-1]] == [32] * 12


@pytest.mark.parametrize(
    ("task", "name", "outputs", "targets"),
    [
        ("classification", "F1", SCORES, LABELS),
        ("segmentation", "mIoU", SCORES.reshape(20, 5, 4, 5), LABELS.reshape(20, 4, 5)),
        ("regression", "R2", SCORES, OTHER),
        ("image-regression", "PSNR", IMAGES, (IMAGES + 0.1).clamp(0, 1)),
        ("language-modelling", "perplexity", SCORES.reshape(20, 20, 5), LABELS.reshape(20, 20)),
    ],
)  # fmt: skip
def test_draws_vary_around_the_value(task, name, outputs, targets):
    found = tasks.find(task)
    one = next(each for each in (*found.metrics, *found.more) if each.name == name)
    score, blocks = run(one, outputs, targets, 6)
    draws = blocks.draws(one, score.meter.metric_state)
    assert np.std(draws) > 0
    assert abs(np.mean(draws) - score.value()) < np.std(draws)


def test_mean_average_precision_is_resampled_by_images():
    found, wanted = [], []
    for i in range(12):
        box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
        wanted.append({"boxes": box, "labels": torch.tensor([1])})
        found.append(
            {"boxes": box + 9 * (i % 3 == 0), "scores": torch.tensor([0.9]), "labels": torch.tensor([1])}
        )
    (precision,) = tasks.find("detection").metrics
    score, blocks = run(precision, found, wanted, 5)
    draws = blocks.draws(precision, score.meter.metric_state)
    assert len(draws) == bootstrap.RESAMPLES_OF_LISTS
    assert abs(np.mean(draws) - score.value()) < np.std(draws)


def test_one_value_for_a_batch_is_one_block():
    one = metric(lambda outputs, targets: float((outputs - targets).abs().mean()))
    score, blocks = run(one, SCORES, OTHER, 50)
    assert len(blocks.states) == 8
    assert blocks.draws(one, score.meter.metric_state) is not None


def test_no_interval_where_states_do_not_add_up():
    recall = tasks.find("embedding").metrics[0]
    assert changed(recall, SCORES, OTHER, LABELS) is None
    extremes = metric(library().MaxMetric, higher_is_better=True)
    score = Score(extremes)
    score.meter = extremes.start(None, None)
    blocks = Blocks(score.meter)
    for part in SCORES.split(100):
        score.meter.update(part)
        blocks.add((part,))
    assert blocks.draws(extremes, score.meter.metric_state) is None
