"""The scripts in examples/ run as they stand, and print what they promise."""

import itertools
import json
import math
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import zeropoint as zp

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs an example as ``python examples/NAME.py`` does, without waiting for PyTorch to be imported."""

    def run_(name: str, folder: Path, *arguments: str) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run_


def alone(name: str, folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def top1(line_start: str, output: str) -> float:
    (found,) = re.findall(rf"^{re.escape(line_start)}: top-1 ([\d.]+)%", output, re.MULTILINE)
    return float(found)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(example):
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 60


def test_every_example_is_run_by_a_test_below():
    tests = Path(__file__).read_text(encoding="utf-8")
    assert {path.stem for path in EXAMPLES} == set(re.findall(r'(?:run|alone)\("(\w+)", tmp_path[,)]', tests))


@pytest.mark.slow
def test_an_artefact_runs_without_zeropoint(run, tmp_path):
    accuracy, sqnr = re.findall(r"([\d.]+)(?:%| dB)", run("quantize", tmp_path))
    assert float(accuracy) > 98
    assert float(sqnr) > 30
    script = (ROOT / "examples" / "deploy.py").read_text(encoding="utf-8")
    assert not re.search(r"^(import|from) (zeropoint|torch)", script, re.MULTILINE)
    recognized = re.search(r"([\d.]+)% of 1797", alone("deploy", tmp_path))
    assert recognized is not None
    assert float(recognized[1]) > 98


@pytest.mark.slow
def test_a_network_of_ones_own_keeps_its_accuracy(run, tmp_path):
    output = run("own_model", tmp_path)
    assert top1("float32", output) > 85
    assert abs(top1("float32", output) - top1("int8", output)) < 2


@pytest.mark.slow
def test_compare_gives_every_row(run, tmp_path):
    output = run("compare", tmp_path)
    rows = re.findall(r"^(\S.*): top-1", output, re.MULTILINE)
    assert len(rows) == len(set(rows)) == 3
    artefact = re.search(r"^smallest: .*W4A8.*, in (\S+)$", output, re.MULTILINE)
    assert artefact is not None
    assert (tmp_path / artefact[1]).exists()


@pytest.mark.slow
def test_fixed_layers_lose_less(run, tmp_path):
    output = run("spare_layers", tmp_path)
    assert top1("W4A4", output) < top1("W4A4 with fixes", output) <= top1("float32", output) + 1


@pytest.mark.slow
def test_training_keeps_the_better_network(run, tmp_path):
    output = run("train", tmp_path)
    assert 98 < top1("static W2A2", output) <= top1("trained W2A2", output)


@pytest.mark.slow
def test_segmentation_is_judged_by_its_iou(run, tmp_path):
    ious = dict(re.findall(r"^(\S+ on \S+): mIoU ([\d.]+)%", run("segmentation", tmp_path), re.MULTILINE))
    assert len(ious) == 4
    assert all(float(iou) > 85 for iou in ious.values())
    assert float(ious["fp32 on openvino"]) - float(ious["static on openvino"]) < 1
    assert "keep mIoU within 0.5 points of float32's" in (
        tmp_path / "runs" / "segmentation" / "results.md"
    ).read_text(encoding="utf-8").replace("keeps", "keep")
    batches = evaluation_of("segmentation")
    rows = from_artefacts(tmp_path / "runs" / "segmentation", batches)
    assert set(rows) == {"fp32 on onnxruntime", "static on onnxruntime"}
    classes = [batch[1] for batch in batches]
    for row, scores in rows.items():
        assert float(ious[row]) == pytest.approx(mean_iou(scores, classes), abs=0.0051)


def mean_iou(scores: list[np.ndarray], classes: list[torch.Tensor]) -> float:
    """In percent: the mean over classes of the pixels that both have over those that either has."""
    found, wanted = np.concatenate(scores).argmax(1), torch.cat(classes).numpy()
    pairs = [(found == one, wanted == one) for one in np.unique(wanted)]
    return 100 * float(np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs]))


@pytest.mark.slow
def test_regression_with_a_metric_of_ones_own(run, tmp_path):
    found = re.findall(
        r"^\S+: MAE ([\d.]+), within fifty ([\d.]+)%$", run("regression", tmp_path), re.MULTILINE
    )
    (mae, near), (mae8, near8) = found
    assert float(mae) < 50  # the mean of the training targets has 66.7
    assert abs(float(mae) - float(mae8)) < 0.5
    assert abs(float(near) - float(near8)) < 3


def evaluation_of(name: str) -> list:
    """The evaluation batches of an example."""
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["make_loaders"]()["evaluation"]


def printed(metric: str, output: str) -> dict[str, float]:
    """The numbers that an example prints, by row."""
    return {
        row: float(value) for row, value in re.findall(rf"^(.+): {metric} ([\d.]+)", output, re.MULTILINE)
    }


def from_artefacts(folder: Path, batches: list) -> dict[str, list[np.ndarray]]:
    """The first output of each batch of the ONNX files of a comparison, by row, run by ONNX Runtime alone."""
    onnxruntime = pytest.importorskip("onnxruntime")
    found = {}
    for row in json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]:
        if row["engine"] == "onnxruntime":
            session = onnxruntime.InferenceSession(folder / row["artefact"])
            names = [one.name for one in session.get_inputs()]
            feeds = (
                {one: batch[one] for one in names} if isinstance(batch, dict) else {names[0]: batch[0]}
                for batch in batches
            )
            runs = (session.run(None, {key: x.numpy() for key, x in feed.items()})[0] for feed in feeds)
            found[f"{row['method']} on onnxruntime"] = list(runs)
    return found


def check(values: dict[str, float], expected: dict[str, float], decimals: int, near: float) -> None:
    """ONNX Runtime's rows print what is ``expected``, and all rows are ``near`` each other."""
    assert set(expected) == {"fp32 on onnxruntime", "static on onnxruntime"}
    assert len(values) == 4
    for row, value in expected.items():
        assert values[row] == pytest.approx(value, abs=0.51 * 10**-decimals)
    assert max(values.values()) - min(values.values()) < near


def share_right(scores: list[np.ndarray], labels: list) -> float:
    right = np.concatenate([part.argmax(1) for part in scores]) == np.concatenate(
        [one.numpy() for one in labels]
    )
    return 100 * right.mean()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_classification", "timm_classification"])
def test_a_classifier_of_another_library(name, run, tmp_path):
    output = run("text_classification", tmp_path) if name[1] == "e" else run("timm_classification", tmp_path)
    (folder,) = (tmp_path / "runs").iterdir()
    batches = evaluation_of(name)
    labels = [batch["labels"] if isinstance(batch, dict) else batch[1] for batch in batches]
    rows = from_artefacts(folder, batches)
    values = printed("top-1", output)
    check(values, {row: share_right(scores, labels) for row, scores in rows.items()}, 2, near=2)
    assert min(values.values()) > 90


def psnr(images: list[np.ndarray], targets: list[np.ndarray]) -> float:
    """Of values from 0 to 1, in dB."""
    errors = np.concatenate(images).astype(np.float64) - np.concatenate(targets)
    return 10 * math.log10(1 / np.square(errors).mean())


@pytest.mark.slow
def test_super_resolution_has_more_details_than_an_enlarged_image(run, tmp_path):
    values = printed("PSNR", run("super_resolution", tmp_path))
    batches = evaluation_of("super_resolution")
    large = [batch[1].numpy() for batch in batches]
    rows = from_artefacts(tmp_path / "runs" / "photographs", batches)
    check(values, {row: psnr(images, large) for row, images in rows.items()}, 2, near=0.2)
    enlarged = [
        torch.nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear").numpy() for x, _ in batches
    ]
    assert min(values.values()) > psnr(enlarged, large) + 0.3


def edits(found: list[int], wanted: list[int]) -> int:
    """The least number of words that are put in, left out or changed (Levenshtein's distance)."""
    row = list(range(len(wanted) + 1))
    for i, word in enumerate(found, 1):
        above, row = row, [i]
        for j, other in enumerate(wanted, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (word != other)))
    return row[-1]


def wer(scores: list[np.ndarray], words: list) -> float:
    """Errors in percent of the words: of repeated classes one is kept, and none of class 0."""
    wrong = total = 0
    for sound, row in zip(np.concatenate(scores).argmax(2), np.concatenate(words), strict=True):
        found = [int(word) for word, _ in itertools.groupby(sound) if word > 0]
        wanted = [int(word) for word in row if word > 0]
        wrong, total = wrong + edits(found, wanted), total + len(wanted)
    return 100 * wrong / total


@pytest.mark.slow
def test_words_are_recognized(run, tmp_path):
    values = printed("WER", run("speech", tmp_path))
    batches = evaluation_of("speech")
    rows = from_artefacts(tmp_path / "runs" / "words", batches)
    words = [batch[1].numpy() for batch in batches]
    check(values, {row: wer(scores, words) for row, scores in rows.items()}, 2, near=3)
    assert max(values.values()) < 30


def recorded(monkeypatch, by_hand: Callable) -> list[float]:
    """What ``by_hand`` makes of each run and data that an example evaluates, in order."""
    seen, evaluate = [], zp.evaluate

    def record(run, data, **more):
        seen.append(by_hand(run, data))
        return evaluate(run, data, **more)

    monkeypatch.setattr(zp, "evaluate", record, raising=False)
    return seen


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The intersection over union of a box with others, as corners."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = sides.clip(0).prod(1)
    return common / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - common)


def average_precision(found: list[dict], wanted: list[dict], label: int, least: float) -> float:
    """COCO's: the mean over 101 recalls of the highest precision at that recall or more."""
    hits = []
    for boxes, truth in zip(found, wanted, strict=True):
        free = truth["boxes"][truth["labels"] == label]
        scores, corners = (boxes[key][boxes["labels"] == label] for key in ("scores", "boxes"))
        for place in np.argsort(-scores, kind="stable")[:100]:
            shares = overlap(corners[place], free)
            is_hit = len(free) > 0 and shares.max() >= least
            hits.append((scores[place], is_hit))
            free = np.delete(free, shares.argmax(), 0) if is_hit else free
    hits.sort(key=lambda one: -one[0])
    right = np.cumsum([is_hit for _, is_hit in hits])
    recall = right / sum((truth["labels"] == label).sum() for truth in wanted)
    precision = right / np.arange(1, len(right) + 1)
    levels = torch.linspace(0, 1, 101).tolist()  # in float32, as torchmetrics gives them to COCO's evaluator
    reached = [precision[recall >= level].max(initial=0) for level in levels]
    return float(np.mean(reached))


def mean_precision(detect, batches: list) -> float:
    """COCO's mAP in percent, of the classes 1 to 3."""
    with torch.no_grad():
        found = [one for images, _ in batches for one in detect(*images)]
    wanted = [one for _, targets in batches for one in targets]
    arrays = [[{key: x.numpy() for key, x in one.items()} for one in part] for part in (found, wanted)]
    levels = np.linspace(0.5, 0.95, 10)
    return 100 * np.mean([average_precision(*arrays, one, level) for one in (1, 2, 3) for level in levels])


@pytest.mark.slow
def test_detection_in_parts_keeps_its_precision(run, tmp_path, monkeypatch):
    expected = recorded(monkeypatch, mean_precision)
    values = printed("mAP", run("detection", tmp_path))
    assert list(values) == ["float32", "int8 on openvino", "int8 on onnxruntime"]
    assert list(values.values()) == pytest.approx(expected, abs=0.01)
    assert min(values.values()) > 40
    assert max(values.values()) - min(values.values()) < 3


@pytest.mark.slow
def test_faces_are_found_where_the_float_network_finds_them(run, tmp_path):
    if not (find_spec("facenet_pytorch") and find_spec("skimage")):
        pytest.skip("facenet-pytorch and scikit-image are not installed")
    output = run("faces", tmp_path)
    lines = re.findall(r"^(.+): a face at (.+), score ([\d.]+)$", output, re.MULTILINE)
    boxes = {name: np.array([float(one) for one in box.split(", ")]) for name, box, _ in lines}
    assert list(boxes) == ["float32", "int8 on openvino", "int8 on onnxruntime"]
    assert all(float(score) > 0.99 for _, _, score in lines)
    assert overlap(boxes["float32"], np.stack(list(boxes.values()))).min() > 0.9


DATA = ROOT.parent / "shared" / "data"


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "reactions.npz").exists(), reason="the data of the example is not there")
def test_masked_tokens_are_found(run, tmp_path, monkeypatch):
    with np.load(DATA / "reactions.npz") as arrays:
        np.savez(tmp_path / "reactions.npz", **{name: arrays[name][:224, :64] for name in arrays.files})
    (tmp_path / "albert-reactions.safetensors").symlink_to(DATA / "albert-reactions.safetensors")
    expected = recorded(monkeypatch, masked_accuracy)
    values = printed("masked accuracy", run("masked_tokens", tmp_path, str(tmp_path)))
    assert list(values) == ["float32", "int8 on openvino", "int8 on onnxruntime"]
    assert list(values.values()) == pytest.approx(expected, abs=0.0051)
    assert min(values.values()) > 85  # of reactions that are cut after 64 tokens
    assert max(values.values()) - min(values.values()) < 1


def masked_accuracy(model, batches: list[dict]) -> float:
    """In percent of the tokens that have a label."""
    right = total = 0
    for batch in batches:
        scores = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        labels, highest = batch["labels"].numpy(), scores["logits"].detach().numpy().argmax(2)
        right += ((labels == highest) & (labels >= 0)).sum()
        total += (labels >= 0).sum()
    return 100 * right / total
