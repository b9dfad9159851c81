"""The samples that a comparison keeps, and their files in the run folder."""

from pathlib import Path

import pytest
import torch
from networks import images, options, residual

from zeropoint.comparison.compare import compare
from zeropoint.data import Loaders
from zeropoint.engines import load_artefact
from zeropoint.measure.results import Results

pytestmark = pytest.mark.slow
INPUTS = [images(8, 0), images(8, 1)]
LABELS = torch.arange(8) % 5


def run(out: Path, **changed: object) -> Results:
    data = Loaders("mine", calibration=[images(8)], evaluation=[(batch, LABELS) for batch in INPUTS])
    arguments = {"methods": ["fp32", "static"], "engines": ["openvino"], "options": options(), **changed}
    return compare(residual(), data, out=out, **arguments)  # type: ignore[arg-type]


def test_a_row_keeps_the_samples_that_it_changes_most(tmp_path: Path):
    float32, row = run(tmp_path).rows
    assert (float32.changed_samples, float32.changed_classes) == ((), ())
    data, labels = torch.cat(INPUTS), torch.cat([LABELS, LABELS])
    before, after = residual()(data), load_artefact(row.engine, tmp_path / row.artefact, 1)(data)
    signal, noise = before.double().square().sum(1), (before - after).double().square().sum(1)
    same, quality = before.argmax(1) == after.argmax(1), 10 * (signal / noise).log10()
    order = sorted(range(16), key=lambda i: (bool(same[i]), float(quality[i])))
    assert [one.index for one in row.changed_samples] == order[:6]
    for one in row.changed_samples:
        assert one.sqnr_db == pytest.approx(float(quality[one.index]), abs=0.01)
        assert one.changed == (int(not same[one.index]), 1)
        assert one.label == f"class {int(labels[one.index])}"
        assert one.media[0].file == f"{one.index}-input.png"
    assert sum(one.changed for one in row.changed_classes) == int((~same).sum())
    drawn = {medium.file for one in row.changed_samples for medium in one.media}
    assert drawn == {path.name for path in (tmp_path / "samples").iterdir()}
    assert run(tmp_path).rows[1] == row  # read back, and not measured again


def test_a_picture_that_cannot_be_drawn_leaves_the_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("zeropoint.measure.pictures.save_png", fail)
    said: list[str] = []
    (row,) = run(tmp_path, methods=["static"], say=said.append).rows
    assert (row.error, len(row.changed_samples), row.changed_samples[0].media) == (None, 6, ())
    assert f"static on openvino: cannot draw sample {row.changed_samples[0].index}: the disk is full" in said


def test_without_pillow_it_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("zeropoint.measure.pictures.pillow_is_missing", lambda: True)
    said: list[str] = []
    (row,) = run(tmp_path, methods=["static"], say=said.append).rows
    assert len(row.changed_samples) == 6
    assert sum("Pillow is not installed" in line for line in said) == 1
    assert not (tmp_path / "samples").exists()
