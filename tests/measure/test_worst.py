"""The samples that moved most, against NumPy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from zeropoint.data.batches import FlatBatch
from zeropoint.measure.changed import ChangedClass
from zeropoint.measure.evaluate import evaluate_all
from zeropoint.measure.worst import CLASSES, SAMPLES, sample_decibels
from zeropoint.tasks import find

generator = torch.Generator().manual_seed(0)
INPUTS = torch.randn(200, 6, generator=generator)
WEIGHT = torch.randn(6, 4, generator=generator)
LABELS = torch.randint(4, (200,), generator=generator)


def model(inputs):
    return inputs @ WEIGHT


def rounded(inputs):
    return inputs @ (WEIGHT * 2).round() / 2


def worst(run, data, float32=model, task=None):
    return evaluate_all({"": run}, data, float32=float32, task=task and find(task), keep_worst=True)[""].worst


def batches(targets=LABELS, size=16, inputs=INPUTS):
    parts = inputs.split(size)
    labels = [None] * len(parts) if targets is None else targets.split(size)
    return [FlatBatch((part,), label) for part, label in zip(parts, labels, strict=True)]


def decibels(reference, outputs):
    reference, outputs = (np.asarray(one, np.float64).reshape(len(one), -1) for one in (reference, outputs))
    return 10 * np.log10((reference**2).sum(1) / ((reference - outputs) ** 2).sum(1))


@pytest.mark.parametrize("size", [1, 16, 200])
@pytest.mark.parametrize("targets", [LABELS, None])
def test_changed_classes_come_first_then_the_least_sqnr(size, targets):
    reference, outputs = model(INPUTS).numpy(), rounded(INPUTS).numpy()
    changed = reference.argmax(1) != outputs.argmax(1)
    assert SAMPLES < changed.sum() < 100
    quality = decibels(reference, outputs)
    expected = np.lexsort((quality, ~changed))[:SAMPLES]
    found = worst(rounded, batches(targets, size)).samples
    assert [one.index for one in found] == expected.tolist()
    for one in found:
        assert (one.changed, one.fidelity) == ((1, 1), 0.0)
        assert one.sqnr_db == pytest.approx(quality[one.index], rel=1e-5)
        shares = np.exp(reference[one.index]) / np.exp(reference[one.index]).sum()
        assert one.float32.words == f"class {shares.argmax()} ({shares.max():.1%})"
        assert one.row.words.startswith(f"class {outputs[one.index].argmax()} (")
        assert one.label.words == ("" if targets is None else f"class {int(LABELS[one.index])}")
        torch.testing.assert_close(one.inputs[0], INPUTS[one.index])


def test_classes_are_counted_by_label():
    reference, outputs, labels = (
        model(INPUTS).numpy().argmax(1),
        rounded(INPUTS).numpy().argmax(1),
        LABELS.numpy(),
    )
    expected = []
    for label in range(4):
        of = labels == label
        right = (reference[of] == label).mean(), (outputs[of] == label).mean()
        expected.append(
            ChangedClass(f"class {label}", int(of.sum()), int((reference != outputs)[of].sum()), *right)
        )
    expected.sort(key=lambda one: (round((one.row - one.float32) * one.samples), -one.changed, one.name))
    assert worst(rounded, batches()).classes == tuple(one for one in expected if one.changed)
    assert worst(rounded, batches(None)).classes == ()


def test_at_most_ten_classes():
    flipped = torch.eye(20)
    data = [FlatBatch((flipped,), torch.arange(20))]
    found = worst(lambda inputs: -inputs, data, float32=lambda inputs: inputs).classes
    assert [one.name for one in found] == [f"class {i}" for i in range(CLASSES)]


def test_classes_have_the_names_of_the_data_set():
    class Named(Dataset):
        classes = ("ant", "bee", "cat", "dog")

        def __len__(self):
            return len(INPUTS)

        def __getitem__(self, i):
            return INPUTS[i], int(LABELS[i])

    found = worst(rounded, DataLoader(Subset(Named(), range(200)), 50))
    (first, *_) = found.samples
    assert first.label.words == f"class {int(LABELS[first.index])}, {Named.classes[LABELS[first.index]]}"
    assert found.classes[0].name.split(", ")[1] in Named.classes


def test_what_is_equal_is_not_kept_and_references_keep_nothing():
    assert worst(lambda inputs: model(inputs), batches()).samples == ()
    found = evaluate_all({"a": rounded, "b": model}, batches(), float32=model, keep_worst=True)
    assert found["b"].worst is None
    assert evaluate_all({"a": rounded}, batches(), float32=model)["a"].worst is None


def test_what_is_kept_is_a_copy_of_the_sample_alone():
    """An engine may write the next outputs over these, and a view would hold the whole batch in memory."""
    wide, buffer = torch.randn(40, 3, 8, 8, generator=generator), torch.empty(10, 3, 8, 8)
    task = replace(find("image-regression"), metrics=(), loss=None)

    def reused(inputs):
        return buffer.copy_(inputs).mul_(1.5)

    data = [FlatBatch((part,), None) for part in wide.split(10)]
    runs = {"": reused}
    found = evaluate_all(runs, data, float32=lambda x: x + 0, task=task, keep_worst=True)[""].worst.samples
    assert len(found) == SAMPLES
    for one in found:
        torch.testing.assert_close(one.inputs[0], wide[one.index])
        torch.testing.assert_close(one.row.signal, 1.5 * wide[one.index])
        for kept in (one.inputs[0], one.row.signal, one.float32.signal):
            assert kept.untyped_storage().nbytes() == 4 * 3 * 8 * 8


def test_outputs_of_one_axis():
    found = worst(lambda x: rounded(x)[:, 0], batches(None), float32=lambda x: model(x)[:, 0]).samples
    quality = decibels(model(INPUTS)[:, :1], rounded(INPUTS)[:, :1])
    assert [one.index for one in found] == np.argsort(quality)[:SAMPLES].tolist()
    assert found[0].float32.words == f"{float(model(INPUTS)[found[0].index, 0]):.4g}"


def test_one_sample():
    (only,) = worst(rounded, batches(LABELS[:1], inputs=INPUTS[:1])).samples
    assert only.index == 0


def test_nan_comes_first():
    def broken(inputs):
        outputs = rounded(inputs).clone()
        outputs[inputs[:, 0] == INPUTS[77, 0]] = math.nan
        return outputs

    first = worst(broken, batches()).samples[0]
    assert (first.index, first.row.words) == (77, "NaN or infinity")
    assert first.told().sqnr_db is None


def test_the_least_of_several_outputs_counts():
    def outputs(weight):
        return lambda inputs: {
            "logits": inputs @ weight,
            "boxes": inputs @ weight[:, :2] ** 3,
            "zeros": 0 * inputs,
        }

    other = (WEIGHT * 2).round() / 2
    found = worst(outputs(other), batches(model(INPUTS)), float32=outputs(WEIGHT), task="regression").samples
    pairs = [(INPUTS @ WEIGHT, INPUTS @ other), (INPUTS @ WEIGHT[:, :2] ** 3, INPUTS @ other[:, :2] ** 3)]
    quality = np.min([decibels(*pair) for pair in pairs], axis=0)
    assert [one.index for one in found] == np.argsort(quality)[:SAMPLES].tolist()
    assert found[0].float32.words == ", ".join(f"{value:.4g}" for value in INPUTS[found[0].index] @ WEIGHT)


def test_a_mask_of_infinities_is_no_noise_and_integers_do_not_count():
    mask = torch.tensor([[-math.inf, 1.0], [-math.inf, 1.0], [0.0, 1.0]])
    other = torch.tensor([[-math.inf, 1.1], [0.0, 1.0], [0.0, 1.0]])
    found = sample_decibels(
        [mask, torch.ones(3, dtype=torch.int64)], [other, torch.zeros(3, dtype=torch.int64)], 3
    )
    assert found[0] == pytest.approx(20, abs=1e-4)
    assert math.isnan(found[1])
    assert found[2] == math.inf
    assert sample_decibels([torch.ones(4)], [torch.zeros(4)], 3) == [math.inf] * 3


def test_pixels_that_changed_rank_segmentation():
    scores = torch.randn(30, 3, 4, 5, generator=generator)
    noise = 0.5 * torch.randn(scores.shape, generator=generator)
    data = [FlatBatch((part,), None) for part in scores.split(7)]
    task = replace(find("segmentation"), metrics=(), loss=None)
    noises = iter(noise.split(7))
    run = evaluate_all(
        {"": lambda inputs: inputs + next(noises)},
        data,
        float32=lambda inputs: inputs,
        task=task,
        keep_worst=True,
    )
    before, after = scores.numpy().argmax(1), (scores + noise).numpy().argmax(1)
    counts = (before != after).sum((1, 2))
    quality = decibels(scores, scores + noise)
    expected = np.lexsort((quality, -counts))[:SAMPLES]
    found = run[""].worst.samples
    assert [one.index for one in found] == expected.tolist()
    for one in found:
        assert one.changed == (counts[one.index], 20)
        np.testing.assert_array_equal(one.float32.mask, before[one.index])
        np.testing.assert_array_equal(one.row.mask, after[one.index])


def test_boxes_that_no_longer_match_rank_detection():
    boxes = torch.tensor([[0.0, 0, 4, 4], [4, 4, 9, 9]])

    def found_boxes(scores):
        return [{"boxes": boxes, "scores": one, "labels": torch.tensor([1, 2])} for one in scores]

    task = replace(find("detection"), metrics=(), postprocess=found_boxes)
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2])}] * 10
    scores = torch.full((20, 2), 0.9)
    scores[3::5, 1] = 0.4  # not sure any more
    data = [FlatBatch((part,), targets) for part in scores.split(10)]
    runs = {"": lambda inputs: inputs}
    found = evaluate_all(runs, data, float32=torch.ones_like, task=task, keep_worst=True)[""].worst.samples
    assert [one.index for one in found[:4]] == [3, 8, 13, 18]
    assert [one.changed for one in found] == [(1, 2)] * 4 + [(0, 2)] * 2
    assert found[0].float32.words == "2 boxes: class 1 (100%); class 2 (100%)"
    assert found[0].row.words == "1 box: class 1 (90%)"
    assert found[0].label.words == "2 boxes: class 1; class 2"
    assert [tuple(one)[:4] for one in found[0].float32.boxes] == [(0, 0, 4, 4), (4, 4, 9, 9)]


def test_cosines_rank_embeddings():
    reference, outputs = model(INPUTS).double().numpy(), rounded(INPUTS).double().numpy()
    norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(outputs, axis=1)
    cosines = (reference * outputs).sum(1) / norms
    found = worst(rounded, batches(), task="embedding").samples
    assert [one.index for one in found] == np.argsort(cosines)[:SAMPLES].tolist()
    assert found[0].fidelity == pytest.approx(cosines.min())
    assert found[0].changed is None


@pytest.mark.parametrize("targets", [torch.zeros(200, 4), None, torch.zeros(200, 4, 1)])
def test_outputs_without_an_answer_have_decibels_alone(targets):
    def wide(weight):
        return lambda inputs: (inputs @ weight).repeat(1, 10)

    data = batches(None if targets is None else targets)
    task = replace(find("regression"), metrics=(), loss=None)
    found = evaluate_all(
        {"": wide((WEIGHT * 2).round() / 2)}, data, float32=wide(WEIGHT), task=task, keep_worst=True
    )[""].worst
    assert len(found.samples) == SAMPLES
    assert found.samples[0].float32.words == found.samples[0].row.words == ""
    assert found.samples[0].fidelity is None
