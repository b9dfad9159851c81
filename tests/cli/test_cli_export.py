"""``zeropoint export``: what it prints, and what it refuses."""

import pytest
from networks import images, residual

import zeropoint as zp


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zp.quantize(residual(), "static", calibration=[images(8)], target="qnn").save("m.pt2")
    return tmp_path


def test_it_says_size_operators_and_parity(saved, command):
    status, out, _ = command("export m.pt2 --to qnn --out m.onnx")
    assert status == 0
    assert out.startswith("m.onnx, 0.01 MB, for qnn: ")
    assert "operators, all in its list; " in out
    assert (saved / "m.onnx").is_file()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "export m.pt2 --to tensorrt --out m.onnx",
            "error: the Program is quantized for qnn; quantize it with",
        ),
        ("export m.pt2 --to gpu --out m.onnx", "error: unknown export 'gpu'; valid: qnn, tensorrt"),
        ("export none.pt2 --to qnn --out m.onnx", "error: no such file: none.pt2"),
    ],
)
def test_what_it_refuses_is_one_line(saved, command, line, message):
    status, _, err = command(line)
    assert status == 2
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert not (saved / "m.onnx").exists()
