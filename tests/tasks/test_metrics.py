"""The metrics of every task, against NumPy and scikit-learn on all data at once."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics as sklearn_metrics

from zeropoint import tasks
from zeropoint.errors import InputError
from zeropoint.tasks.embedding import Recall
from zeropoint.tasks.metric import Score
from zeropoint.tasks.speech import ctc

generator = torch.Generator().manual_seed(0)
SCORES, LABELS = (
    torch.randn(50, 7, generator=generator),
    torch.randint(7, (50,), generator=generator),
)


def metric_of(task, name):
    found = tasks.find(task)
    return next(one for one in (*found.metrics, *found.more, found.fidelity) if one and one.name == name)


def measured(task, name, outputs, targets, size=8):
    """The metric over batches of ``size``, the last of which is smaller."""
    score = Score(metric_of(task, name))
    for i in range(0, len(outputs), size):
        score.add(outputs[i : i + size], targets[i : i + size])
    return score.value()


def test_top_1_and_top_5():
    order = SCORES.numpy().argsort(1)[:, ::-1]
    for k in (1, 5):
        hits = [label in row[:k] for row, label in zip(order, LABELS.numpy(), strict=True)]
        assert measured("classification", f"top-{k}", SCORES, LABELS) == np.mean(hits)
    tie = torch.zeros(1, 3)
    assert measured("classification", "top-1", tie, torch.tensor([0])) == 1  # the first of equal scores
    assert measured("classification", "top-1", tie, torch.tensor([1])) == 0


def test_f1_is_that_of_scikit_learn():
    expected = sklearn_metrics.f1_score(LABELS, SCORES.argmax(1), average="macro")
    assert measured("text-classification", "F1", SCORES, LABELS) == pytest.approx(expected)


def test_auroc_is_that_of_scikit_learn_but_for_its_200_thresholds():
    expected = sklearn_metrics.roc_auc_score(LABELS, SCORES.softmax(1), multi_class="ovr")
    assert measured("classification", "AUROC", SCORES, LABELS) == pytest.approx(expected, abs=0.02)


def test_several_labels_to_a_sample():
    logits, labels = SCORES[:, :4], (SCORES[:, 3:] > 0.5).long()
    expected = sklearn_metrics.f1_score(labels, logits > 0, average="macro")
    assert measured("multi-label", "F1", logits, labels) == pytest.approx(expected)
    expected = sklearn_metrics.roc_auc_score(labels, logits.sigmoid(), average="macro")
    assert measured("multi-label", "AUROC", logits, labels) == pytest.approx(expected, abs=0.02)


def test_mean_iou_leaves_borders_and_absent_classes_out():
    scores = torch.randn(5, 4, 6, 6, generator=generator)
    scores[:, 3] -= 100  # a class that is never predicted
    targets = torch.randint(3, (5, 6, 6), generator=generator)
    targets[:, 0] = 255
    predicted, kept = scores.argmax(1).numpy(), targets.numpy() != 255
    ious = []
    for one in range(3):
        found, wanted = (predicted == one) & kept, (targets.numpy() == one) & kept
        ious.append((found & wanted).sum() / (found | wanted).sum())
    assert measured("segmentation", "mIoU", scores, targets, 2) == pytest.approx(np.mean(ious))
    right = (predicted == targets.numpy())[kept].mean()
    assert measured("segmentation", "pixel accuracy", scores, targets, 2) == pytest.approx(right)
    assert tasks.find("segmentation").loss(scores, targets[:, None]) == pytest.approx(
        float(F.cross_entropy(scores, targets, ignore_index=255))
    )


def tokens():
    scores = torch.randn(6, 9, 11, generator=generator)
    labels = torch.randint(11, (6, 9), generator=generator)
    labels[:, 6:] = -100
    return scores, labels


def test_tokens_without_a_label_do_not_count():
    scores, labels = tokens()
    kept = labels.numpy() != -100
    right = (scores.argmax(2).numpy() == labels.numpy())[kept].mean()
    assert measured("token-classification", "token accuracy", scores, labels, 4) == pytest.approx(right)
    assert measured("masked-language-modelling", "masked accuracy", scores, labels, 4) == pytest.approx(right)
    expected = sklearn_metrics.f1_score(
        labels[:, :6].flatten(), scores[:, :6].argmax(2).flatten(), average="macro"
    )
    assert measured("token-classification", "F1", scores, labels, 4) == pytest.approx(expected)


def test_perplexity_of_masked_and_of_next_tokens():
    scores, labels = tokens()
    logs = scores.double().log_softmax(2).numpy()

    def expected(logs, labels):
        kept = labels != -100
        chosen = np.take_along_axis(logs, np.where(kept, labels, 0)[..., None], 2)[..., 0]
        return np.exp(-chosen[kept].mean())

    masked = measured("masked-language-modelling", "perplexity", scores, labels, 4)
    assert masked == pytest.approx(expected(logs, labels.numpy()), rel=1e-5)
    following = measured("language-modelling", "perplexity", scores, labels, 4)
    assert following == pytest.approx(expected(logs[:, :-1], labels.numpy()[:, 1:]), rel=1e-5)
    loss = tasks.find("language-modelling").loss(scores, labels)
    assert math.exp(loss) == pytest.approx(following, rel=1e-5)


def distance(one, other):
    """Levenshtein's, by its recursion."""
    if not one or not other:
        return len(one) + len(other)
    if one[-1] == other[-1]:
        return distance(one[:-1], other[:-1])
    return 1 + min(distance(one[:-1], other), distance(one, other[:-1]), distance(one[:-1], other[:-1]))


def test_ctc_merges_repeats_and_drops_blanks():
    path = torch.tensor([[0, 1, 1, 0, 1, 2, 2, 0]])
    assert ctc(F.one_hot(path, 3)) == ["1 1 2"]
    assert ctc(F.one_hot(path, 3), ["", "a", "b"]) == ["aab"]


def test_word_error_rate_of_texts_and_of_tokens():
    found, wanted = ["a b c", "a", "x y"], ["a c c", "a", "y"]
    pairs = [(one.split(), other.split()) for one, other in zip(found, wanted, strict=True)]
    expected = sum(distance(*pair) for pair in pairs) / sum(len(pair[1]) for pair in pairs)
    assert measured("speech-recognition", "WER", found, wanted, 2) == pytest.approx(expected)
    scores = F.one_hot(torch.tensor([[0, 1, 1, 0, 1, 2]]), 3).float()
    assert measured("speech-recognition", "WER", scores, torch.tensor([[1, 2, 2, -100]])) == pytest.approx(
        1 / 3
    )
    loss = tasks.find("speech-recognition").loss(scores, torch.tensor([[1, 2, -100]]))
    assert float(loss) > 0


def test_psnr_of_three_ranges():
    images = torch.rand(3, 3, 16, 16, generator=generator)
    for scale, shift, peak in ((1, 0, 1), (255, 0, 255), (2, -1, 2)):
        wanted = images * scale + shift
        found = wanted + 0.1 * scale * torch.randn(images.shape, generator=generator)
        expected = 10 * math.log10(peak**2 / float(((found - wanted).double() ** 2).mean()))
        assert measured("image-regression", "PSNR", found, wanted, 2) == pytest.approx(
            float(expected), abs=1e-4
        )
    assert measured("image-regression", "SSIM", images, images, 2) == pytest.approx(1.0)
    with pytest.raises(InputError, match="reach from 0 to 900, in no usual range"):
        measured("image-regression", "PSNR", images, torch.tensor([0.0, 900.0]).repeat(3, 3, 16, 8))


def test_si_sdr_is_free_of_scale():
    wanted = torch.randn(4, 200, generator=generator, dtype=torch.float64)
    found = 3 * wanted + torch.randn(4, 200, generator=generator)
    scale = (found * wanted).sum(1, keepdim=True) / (wanted**2).sum(1, keepdim=True)
    noise = found - scale * wanted
    expected = (10 * torch.log10(((scale * wanted) ** 2).sum(1) / (noise**2).sum(1))).mean()
    value = measured("audio-regression", "SI-SDR", found[:, None], wanted[:, None], 3)
    assert value == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("shape", [(30,), (30, 1), (30, 2)])
def test_regression_is_that_of_scikit_learn(shape):
    wanted = torch.randn(shape, generator=generator)
    found = wanted + 0.5 * torch.randn(shape, generator=generator)
    error = sklearn_metrics.mean_absolute_error(wanted, found)
    assert measured("regression", "MAE", found.reshape(30, -1), wanted, 8) == pytest.approx(error)
    r2 = sklearn_metrics.r2_score(wanted, found)
    assert measured("regression", "R2", found.reshape(30, -1), wanted, 8) == pytest.approx(r2, rel=1e-5)


def nearest(points, labels, k, gallery):
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    hits = []
    for i in range(len(unit)):
        others = [j for j in range(gallery) if j != i]
        order = sorted(others, key=lambda j: -(unit[i] @ unit[j]))[:k]
        if any(labels[j] == labels[i] for j in others):
            hits.append(any(labels[j] == labels[i] for j in order))
    return np.mean(hits)


@pytest.mark.parametrize(("k", "gallery"), [(1, 100), (5, 100), (1, 20)])
def test_recall_searches_all_others_or_the_gallery(k, gallery, monkeypatch):
    monkeypatch.setattr("zeropoint.tasks.embedding.GALLERY", gallery)
    meter = Recall(k)
    points = F.one_hot(LABELS).float() + 0.6 * SCORES
    for i in range(0, 50, 8):
        meter.update(points[i : i + 8], LABELS[i : i + 8])
    expected = nearest(points.numpy(), LABELS.numpy(), k, min(gallery, 50))
    assert float(meter.compute()) == pytest.approx(expected)


def test_cosine():
    wanted = torch.randn(50, 7, generator=generator)
    expected = np.mean(
        [
            1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            for a, b in zip(SCORES.numpy(), wanted.numpy(), strict=True)
        ]
    )
    assert measured("embedding", "cosine", SCORES, wanted) == pytest.approx(1 - expected, abs=1e-6)


def boxes(*corners, scores=None, labels=None):
    made = {"boxes": torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)}
    made["labels"] = torch.tensor(labels or [1] * len(corners))
    return made | ({} if scores is None else {"scores": torch.tensor(scores)})


def test_mean_average_precision():
    # Image 1: one box found exactly. Image 2: an IoU of 0.82 is right at 7 of the 10 thresholds, 0.5 to 0.8,
    # and a second box is found with a higher score where there is none.
    found = [
        boxes([0, 0, 10, 10], scores=[0.9]),
        boxes([0, 0, 10, 8.2], [50, 50, 60, 60], scores=[0.7, 0.8]),
    ]
    wanted = [boxes([0, 0, 10, 10]), boxes([0, 0, 10, 10])]
    # By COCO's 101 recalls: up to recall 0.5 the precision is 1, beyond it is 2/3 or 0.
    at_low, at_high = (51 + 50 * 2 / 3) / 101, 51 / 101
    expected = (7 * at_low + 3 * at_high) / 10
    assert measured("detection", "mAP", found, wanted, 1) == pytest.approx(expected, abs=1e-6)
    assert measured("detection", "mAP50", found, wanted, 1) == pytest.approx(at_low, abs=1e-6)


def agreement(task, outputs, reference, targets=None):
    score = Score(tasks.find(task).fidelity)
    score.add(outputs, (reference, targets))
    return score.value()


def test_fidelity_in_the_terms_of_the_task():
    scores = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, math.nan]])
    assert agreement(
        "classification", scores, torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    ) == pytest.approx(1 / 3)
    assert math.isnan(agreement("classification", scores[None], scores[None]))  # no (N, C)
    pixels = torch.randn(2, 3, 4, 4, generator=generator)
    other = pixels.clone()
    other[0, :, 0, 0] = pixels[0, :, 0, 0].flip(0) + torch.tensor([9.0, 0, 0])
    share = (pixels.argmax(1) == other.argmax(1)).double().mean()
    assert agreement("segmentation", other, pixels) == pytest.approx(float(share))
    scores, labels = tokens()
    changed = scores.clone()
    changed[:, 6:] = scores[:, 6:].flip(2)  # where there is no label
    assert agreement("token-classification", changed, scores, labels) == 1
    assert agreement("token-classification", changed, scores) < 1
    logits = SCORES[:2].clone()
    logits[0, 0] = -logits[0, 0]
    assert agreement("multi-label", logits, SCORES[:2]) == 0.5
    wanted = SCORES[None, None]
    noise = 0.1 * torch.randn(wanted.shape, generator=generator)
    peak = float(wanted.max() - wanted.min())
    psnr = 10 * math.log10(peak**2 / float((noise.double() ** 2).mean()))
    assert agreement("image-regression", wanted + noise, wanted) == pytest.approx(psnr, abs=1e-4)
    assert agreement("embedding", 2 * SCORES, SCORES) == pytest.approx(1)


def test_boxes_match_from_an_iou_of_0_9_on_if_their_classes_are_equal():
    reference = [boxes([0, 0, 100, 100], [0, 0, 50, 50], [0, 0, 9, 9], scores=[0.9, 0.8, 0.3])]
    near = [boxes([0, 0, 100, 91], [0, 0, 50, 50], scores=[0.6, 0.9])]
    assert agreement("detection", near, reference) == 1  # the third is below 0.5
    far = [boxes([0, 0, 100, 89], [0, 0, 50, 50], scores=[0.6, 0.9])]
    assert agreement("detection", far, reference) == 0.5
    renamed = [boxes([0, 0, 100, 100], [0, 0, 50, 50], scores=[0.9, 0.8], labels=[2, 1])]
    assert agreement("detection", renamed, reference) == 0.5
    twice = [boxes([0, 0, 100, 100], [0, 0, 100, 100], scores=[0.9, 0.8])]
    assert agreement("detection", twice, reference) == 0.5


@pytest.mark.parametrize(
    ("task", "outputs", "targets", "message"),
    [
        ("classification", torch.zeros(2, 10), torch.tensor([3, 10]), "batch 1: label 10 is .* 10 classes"),
        ("classification", torch.zeros(2, 10), torch.tensor([3, -1]), "label -1 is out of range"),
        ("classification", torch.zeros(2, 10), torch.zeros(2), r"targets are float32 \(2,\), not integer"),
        ("classification", torch.zeros(2, 10), torch.zeros(2, 10).long(), r"not class numbers \(2,\)"),
        ("classification", torch.zeros(2, 10), torch.tensor([1]), r"int64 \(1,\), not class numbers \(2,\)"),
        ("classification", torch.zeros(2, 3, 4, 4), torch.tensor([1, 2]), r"not scores \(N, C\)"),
        ("classification", torch.zeros(2, 10), None, "has no targets, and top-1 needs them"),
        ("segmentation", torch.zeros(2, 3, 4, 4), torch.ones(2, 8, 8).long(), r"class numbers \(2, 4, 4\)"),
        ("detection", torch.zeros(2, 3), [], "not a list with a dict of boxes, scores, labels"),
        ("detection", [boxes([0, 0, 1, 1], scores=[0.5])], [], "boxes of 1 images and targets of 0"),
        ("regression", torch.zeros(4, 1), torch.zeros(3), r"not values \(4, 1\)"),
        ("multi-label", torch.randn(4, 2), torch.full((4, 2), 2.0), "other numbers than 0 and 1"),
        ("multi-label", torch.rand(4, 2), torch.ones(4, 2), "all from 0 to 1"),
        ("image-regression", torch.zeros(4, 2), torch.zeros(4, 2), r"not images"),
        ("embedding", torch.zeros(4, 2), torch.zeros(4), "not the class of each"),
        ("speech-recognition", torch.zeros(4, 2), [], r"not scores \(N, T, C\)"),
        ("speech-recognition", ["a"], ["a", "b"], "not 1 texts"),
    ],
)  # fmt: skip
def test_outputs_and_targets_that_do_not_fit_are_named_in_a_line(task, outputs, targets, message):
    score = Score(tasks.find(task).metrics[0])
    with pytest.raises(InputError, match=message) as error:
        score.add(outputs, targets)
    assert "\n" not in str(error.value)
