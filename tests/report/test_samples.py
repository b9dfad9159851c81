"""The report's section of samples that changed most."""

import base64
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from test_html import HOSTILE, Page

from zeropoint.measure.changed import ChangedClass, ChangedSample, Media, Outline
from zeropoint.measure.pictures import FOLDER, save_png, save_wav
from zeropoint.report import html as report
from zeropoint.report import samples
from zeropoint.report.files import load, record, save
from zeropoint.report.samples import MediaFiles, best_first, changes
from zeropoint.tasks.metric import Measure

CHANGED = ChangedSample(17, "class 3 (98.1%)", "class 5 (51.0%)", "class 3", (1, 1), 0.0, 7.5)
CLASS = ChangedClass("class 3", 40, 2, 0.975, 0.925)


def test_words_are_in_the_tasks_terms():
    def change(name, unit="%", **fields):
        return samples._change(ChangedSample(0, "", "", **fields), Measure(name, unit))

    assert change("agreement", changed=(1, 1), fidelity=0.0) == "class changed"
    assert change("agreement", changed=(0, 1), fidelity=1.0) == "same class"
    assert change("same labels", changed=(1, 1), fidelity=0.0) == "labels changed"
    assert change("same pixels", changed=(25, 200), fidelity=0.875) == "25 of 200 pixels changed (12.50%)"
    assert change("same boxes", changed=(2, 5), fidelity=0.6) == "2 of 5 boxes changed"
    assert change("cosine to float32", "", fidelity=0.98765) == "cosine to float32 0.9877"
    assert change("PSNR to float32", "dB") == ""


def test_rows_that_keep_the_accuracy_come_first_by_latency(make_row, make_results):
    rows = [
        make_row("static", "torch", 3.0),
        make_row("static", "openvino", 1.0, top1=0.5),
        make_row("fp32", "torch", 9.0),
        make_row("static", "onnxruntime", 2.0),
        replace(make_row("qat", "torch"), error="no", latency_ms=None),
    ]
    names = [row.name for row in best_first(make_results(*rows))]
    assert names == [
        *("static on onnxruntime", "static on torch", "fp32 on torch", "static on openvino", "qat on torch")
    ]


@pytest.fixture
def make_folder(tmp_path, make_row, make_results):
    """A run folder with one quantized row of these samples."""

    def make(*changed, name="run", **fields):
        row = replace(make_row("static"), changed_samples=changed, changed_classes=(CLASS,))
        save(make_results(make_row("fp32", "torch"), row, **fields), tmp_path / name)
        return tmp_path / name

    return make


def rendered(*folders):
    return Page(report.render(report.read(folders)))


def test_a_run_folder_keeps_them(make_folder):
    outlines = (Outline(0.1, 0.2, 0.3, 0.4, "class 1", "row"),)
    changed = replace(CHANGED, media=(Media("17-input.png", "input", outlines),))
    results = load(make_folder(changed))
    assert results.rows[1].changed_samples == (changed,)
    assert results.rows[1].changed_classes == (CLASS,)
    kept = json.loads(json.dumps(record(results)))
    for row in kept["rows"]:
        del row["digest"]
    assert kept == json.loads(json.dumps({"schema": 3} | asdict(results)))


def test_the_section_has_words_classes_and_pictures(make_folder):
    media = (Media("17-input.png", "input"), Media("17-sound.wav", "a sound"), Media("gone.png", "lost"))
    folder = make_folder(replace(CHANGED, media=media))
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    save_png(folder / FOLDER / "17-input.png", pixels)
    save_wav(folder / FOLDER / "17-sound.wav", np.zeros(9, np.int16), 8000)
    page = rendered(folder)
    assert "Samples that changed most" in page.words
    assert "static on openvino: agreement 99.50%, 30.0 dB" in page.words
    assert "Sample 17: class changed, 7.5 dB" in page.words
    assert "class 5 (51.0%)" in page.words
    assert ["class 3", "40", "2", "97.50", "92.50"] in [
        row for table in page.tables.values() for row in table
    ]
    (image,) = [values for tag, values in page.tags if tag == "img"]
    assert (image["alt"], image["class"]) == ("Sample 17: input", "small")
    assert (image["width"], image["height"]) == ("4", "3")
    held = page.unpacked("media")
    assert held.keys() == {"1/17-input.png", "1/17-sound.wav"}
    kind, _, text = held["1/17-input.png"].partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(text) == (folder / FOLDER / "17-input.png").read_bytes()
    assert "gone.png is missing" in page.words
    assert [values for tag, values in page.tags if tag == "details"][-1].get("open") is None  # folded


def test_a_picture_of_several_rows_is_held_once_and_runs_have_their_own(make_folder):
    changed = replace(CHANGED, media=(Media("17-input.png", "input"), Media("17-input.png", "again")))
    folders = [make_folder(changed, name=name) for name in "ab"]
    for folder in folders:
        save_png(folder / FOLDER / "17-input.png", np.zeros((3, 4), np.uint8))
    assert rendered(*folders).unpacked("media").keys() == {"1/17-input.png", "2/17-input.png"}


def test_pictures_stay_below_the_limit(make_folder):
    noise = torch.randint(256, (192, 192, 3), dtype=torch.uint8).numpy()  # nothing to compress
    folder = make_folder(*(replace(CHANGED, media=(Media(f"{i}.png", "input"),)) for i in range(9)))
    for i in range(9):
        save_png(folder / FOLDER / f"{i}.png", noise)
    files = MediaFiles()
    (row,) = changes(1, load(folder), folder, files)
    size = sum(map(len, files.held.values()))
    assert 0 < len(files.held) < 9
    assert samples.LIMIT - size < max(map(len, files.held.values()))
    assert size <= samples.LIMIT
    missing = [one["media"][0]["missing"] for one in row["samples"]]
    assert missing[0] == ""
    assert missing[-1] == f"left out, to keep the report small: {folder / FOLDER / '8.png'}"


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", ".hidden.png", "a.html", "a/b.png", HOSTILE, "..", ""]
)
def test_no_other_file_is_read(make_folder, name):
    folder = make_folder(replace(CHANGED, media=(Media(name, HOSTILE),), float32=HOSTILE))
    (folder / "secret.png").write_bytes(b"secret")
    page = rendered(folder)
    assert page.unpacked("media") == {}
    assert not [tag for tag, _ in page.tags if tag in ("img", "audio")]
    assert page.words.count(HOSTILE) >= 2


def test_a_run_without_samples(make_run_of_old):
    assert "No row keeps samples" in rendered(make_run_of_old).words


@pytest.fixture
def make_run_of_old(tmp_path, make_row, make_results):
    save(make_results(make_row("static")), tmp_path)
    return tmp_path
