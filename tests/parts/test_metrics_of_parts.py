"""The metrics of whole models that have parts on an engine."""

import numpy as np
import pytest
import torch
from torch import nn

from zeropoint.errors import InputError
from zeropoint.parts.compare import compare_parts
from zeropoint.tasks import made

ROWS = {"methods": ["fp32"], "engines": ["onnxruntime"], "parts": "0"}


class Named(nn.Sequential):
    """The same, called by keyword."""

    def forward(self, x):
        return {"scores": super().forward(x)}


def layers() -> tuple[nn.Module, ...]:
    torch.manual_seed(0)
    return nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)


def labelled() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    sizes = 20, 20, 7
    return [
        (torch.randn(n, 8, generator=generator), torch.randint(4, (n,), generator=generator)) for n in sizes
    ]


def by_hand(model: nn.Sequential, batches) -> float:
    """The share of the labels that the highest of the scores has, in NumPy."""
    first, second = model[0], model[2]
    weights = [one.detach().numpy() for one in (first.weight, first.bias, second.weight, second.bias)]
    x, labels = (np.concatenate([one[part].numpy() for one in batches]) for part in (0, 1))
    scores = np.maximum(x @ weights[0].T + weights[1], 0) @ weights[2].T + weights[3]
    return float((scores.argmax(1) == labels).mean())


def test_a_task_has_the_values_of_each_row():
    model, batches = nn.Sequential(*layers()), labelled()
    rows = compare_parts(model, batches, batches, task=made("classification"), **ROWS)
    assert [row.error for row in rows] == [None, None]
    assert [row.values["top-1"] for row in rows] == pytest.approx([by_hand(model, batches)] * 2)


def test_labels_in_a_dict_and_outputs_that_are_postprocessed():
    model, pairs = Named(*layers()), labelled()
    batches = [{"x": x, "labels": labels} for x, labels in pairs]
    task = made("classification", postprocess=lambda outputs: outputs["scores"])
    rows = compare_parts(model, batches, batches, task=task, **ROWS)
    assert rows[1].values["top-1"] == pytest.approx(by_hand(model, pairs))


def test_a_metric_of_the_whole_model_is_given_model_and_loader():
    def mean(model, loader):
        return float(sum(model(x).sum() for x, _ in loader)) / 188  # 47 rows of 4 scores

    model, batches = nn.Sequential(*layers()), labelled()
    rows = compare_parts(model, batches, batches, task=made(metrics=mean), **ROWS)
    expected = float(torch.cat([model(x).detach() for x, _ in batches]).mean())
    assert [row.values["mean"] for row in rows] == pytest.approx([expected] * 2, rel=1e-4)


def test_without_targets_one_line_says_so():
    model, batches = nn.Sequential(*layers()), [x for x, _ in labelled()]
    with pytest.raises(InputError, match="batch 1 has no targets, and top-1 needs them"):
        compare_parts(model, batches, batches, task=made("classification"), **ROWS)
