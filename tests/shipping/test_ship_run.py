"""Rows of a comparison as folders: which row, with what data, and what is refused."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import Residual, randomized
from torch.utils.data import DataLoader, Subset

import zeropoint as zp
from zeropoint.data import images as prepare
from zeropoint.data.batches import image_files
from zeropoint.measure import samples
from zeropoint.measure.results import Parity, Results, Row
from zeropoint.models.vision import torchvision
from zeropoint.report.files import load, save
from zeropoint.shipping.ship import find, recommended


@pytest.fixture(scope="session")
def run(tmp_path_factory, pictures, inputs, how) -> Path:
    """A comparison on a folder of images, in two classes."""
    root = tmp_path_factory.mktemp("data")
    for number, picture in enumerate(pictures * 3):
        place = root / ("wasp" if number % 2 else "moth") / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(picture, place)
    dataset = torchvision().datasets.ImageFolder(str(root), prepare.prepared(how))
    loader = DataLoader(Subset(dataset, [7, 1, 4, 11, 0, 3]), batch_size=3)
    data = zp.Loaders("wings", [inputs], loader, preprocessing=how)
    program = zp.capture(randomized(Residual()), inputs[:2], origin="residual")
    out = tmp_path_factory.mktemp("runs") / "run"
    zp.compare(program, data, out=out, methods=["fp32", "static"], engines=["onnxruntime"])
    return out


@pytest.fixture
def changed(run, tmp_path):
    """A copy of the run in which the static row is changed."""

    def apply(**fields: object) -> Path:
        copied = Path(shutil.copytree(run, tmp_path / "run"))
        results = load(copied)
        rows = tuple(
            dataclasses.replace(row, **fields) if row.method == "static" else row for row in results.rows
        )
        save(dataclasses.replace(results, rows=rows), copied)
        return copied

    return apply


def test_a_row_becomes_a_folder_with_its_data_and_numbers(run, tmp_path):
    made = zp.ship_run(run, tmp_path / "out", row="static W8A8 onnxruntime")
    row = next(row for row in load(run).rows if row.method == "static")
    assert made["measured"]["latency_ms"]["p50"] == row.latency_ms.p50
    assert made["measured"]["metrics"] == row.values
    assert made["model"] == "residual"
    assert made["labels"] == ["moth", "wasp"]
    assert made["golden"]["images"] == [f"golden/images/{k}.png" for k in range(3)]
    command = [sys.executable, "-B", str(tmp_path / "out" / "verify.py"), "--seconds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "golden inputs of the sample images, to the bit" in done.stdout


def test_the_command_line_ships_and_verifies(run, tmp_path):
    zeropoint = [sys.executable, "-m", "zeropoint"]
    done = subprocess.run(
        [*zeropoint, "ship", str(run), "--row", "fp32 onnxruntime", "--out", str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"Shipped: {tmp_path / 'out'}, " in done.stdout
    again = subprocess.run(
        [*zeropoint, "ship", str(run), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 2
    assert again.stderr == f"error: {tmp_path / 'out'} is not empty; give a new folder\n"


def test_the_samples_are_the_first_items_and_their_files(run, inputs):
    kept = samples.load(run)
    program = zp.capture(randomized(Residual()), inputs[:2])
    assert np.array_equal(
        kept.arrays["x"][:1], prepare.prepared(kept.preprocessing)(prepare.read(kept.images[0]))[None]
    )
    assert len(kept.images) == len(kept.arrays["x"]) == 3
    assert kept.inputs == samples.of_inputs(program, (inputs,)).inputs


def test_files_of_a_loader_that_shuffles_or_holds_no_files_are_not_known():
    numbers = torch.utils.data.TensorDataset(torch.zeros(4, 3, 8, 8))
    assert image_files(DataLoader(numbers), 4) == ()
    assert image_files([torch.zeros(4, 3, 8, 8)], 4) == ()


ROWS = (
    Row("fp32", "torch", 32, 32),
    Row("static", "torch", 8, 8),
    Row("static", "openvino", 8, 8),
    Row("static", "openvino", 4, 8),
    Row("bf16", "openvino", 16, 16),
)
RESULTS = Results("", "", "m", "d", 1, 1, 1, {}, {}, {}, "", rows=ROWS)


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("fp32", 0), ("fp32 torch", 0), ("static on torch", 1), ("static W8A8 openvino", 2),
        ("openvino w4a8", 3), ("bf16", 4),
    ],
)  # fmt: skip
def test_a_row_is_found_by_words(words, number):
    assert find(RESULTS, words) is ROWS[number]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "qat openvino",
            "there is no row 'qat openvino'; give --row as one of 'fp32 on torch', 'static on torch', ",
        ),
        (
            "static openvino",
            "'static openvino' is 2 rows; give --row as one of 'static on openvino', 'static W4A8 on",
        ),
        ("", "there is no row ''"),
    ],
)
def test_a_row_that_is_not_found_is_one_line(words, message):
    with pytest.raises(zp.InputError) as error:
        find(RESULTS, words)
    assert str(error.value).startswith(message)


def test_no_recommended_row_is_one_line():
    with pytest.raises(zp.InputError, match="no row of this comparison keeps float32's accuracy; choose one"):
        recommended(RESULTS)


def test_the_recommended_row_is_that_of_the_verdict(run, tmp_path):
    assert recommended(load(run)).engine == "onnxruntime"


def test_a_row_whose_parity_failed_is_shipped_only_anyway(changed, tmp_path):
    wrong = changed(parity=Parity(9.0, 40.0, 0.5, ok=False, close=False, cause="int8 results overflow"))
    with pytest.raises(
        zp.InputError, match=r"than its Program \(int8 results overflow\); ship another row, or"
    ):
        zp.ship_run(wrong, tmp_path / "out", row="static")
    assert not (tmp_path / "out").exists()
    assert zp.ship_run(wrong, tmp_path / "out", row="static", anyway=True)["method"] == "static"


def test_a_row_that_failed_is_not_shipped(changed, tmp_path):
    with pytest.raises(zp.InputError, match="static on onnxruntime cannot be shipped: out of memory"):
        zp.ship_run(changed(error="out of memory"), tmp_path / "out", row="static", anyway=True)


def test_a_run_without_samples_or_artefact_is_one_line(changed, tmp_path):
    copied = changed()
    (copied / "artefacts" / "static-W8A8.onnx").unlink()
    with pytest.raises(zp.InputError, match=r"static-W8A8\.onnx.*compare again"):
        zp.ship_run(copied, tmp_path / "out", row="static")
    shutil.rmtree(copied / "shipping")
    with pytest.raises(zp.InputError, match="holds no samples to ship with: an earlier zeropoint made it"):
        zp.ship_run(copied, tmp_path / "out", row="static")
    assert not (tmp_path / "out").exists()
    assert json.loads((copied / "results.json").read_text())["rows"]
