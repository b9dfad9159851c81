"""The C++ of a shipped folder compiles, runs, and gives the golden outputs to the bit."""

import importlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from networks import Residual, randomized

import zeropoint as zp
from zeropoint.shipping import ship as ship_module

pytestmark = pytest.mark.slow


def cmake_options(engine: str, tmp_path: Path) -> list[str]:
    """Where CMake finds the engine: its wheel, for ONNX Runtime with headers that the wheel lacks."""
    if engine == "openvino":
        return [f"-DOpenVINO_DIR={importlib.import_module('openvino.utils').get_cmake_path()}"]
    include = os.environ.get("ONNXRUNTIME_INCLUDE")
    places = (
        [Path(include)]
        if include
        else [Path("/usr/include/onnxruntime"), Path("/usr/local/include/onnxruntime")]
    )
    found = [place for place in places if (place / "onnxruntime_cxx_api.h").is_file()]
    if not found:
        pytest.skip(
            "no C++ headers of ONNX Runtime: its wheel has none; set ONNXRUNTIME_INCLUDE to their folder"
        )
    capi = Path(importlib.import_module("onnxruntime").__file__).parent / "capi"
    libraries = sorted(capi.glob("libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("the wheel of ONNX Runtime holds no libonnxruntime.so")
    (tmp_path / "lib").mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / "lib" / name).symlink_to(libraries[0])
    return [
        f"-DONNXRUNTIME_INCLUDE={found[0]}", f"-DONNXRUNTIME_LIBRARY={tmp_path / 'lib' / 'libonnxruntime.so'}"
    ]  # fmt: skip


@pytest.mark.skipif(not shutil.which("cmake") or not shutil.which("g++"), reason="no cmake or no g++")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_it_gives_the_golden_outputs(engine, inputs, tmp_path, monkeypatch):
    options = cmake_options(engine, tmp_path)
    monkeypatch.setattr(ship_module, "SECONDS", 0.0)
    program = zp.capture(randomized(Residual()), inputs[:2])
    program = zp.quantize(program, "static", calibration=[inputs], target=engine)
    out = tmp_path / "out"
    zp.ship(program, engine, out, inputs=inputs)
    manifest = json.loads((out / "manifest.json").read_text())
    assert {name for name in manifest["files"] if name.startswith("cpp/")} == {
        "cpp/predict.cpp", "cpp/CMakeLists.txt"
    }  # fmt: skip
    build = tmp_path / "build"
    subprocess.run(["cmake", "-S", out / "cpp", "-B", build, *options], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", build], check=True, capture_output=True)
    with np.load(out / "golden" / "inputs.npz") as file:
        file["x"].tofile(tmp_path / "x.bin")
    shape = "x".join(map(str, inputs.shape))
    command = [build / "predict", out / manifest["engine"]["files"][0], "1", shape, tmp_path / "x.bin"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "output: 20 values\n"
    found = np.fromfile(tmp_path / "output0.bin", np.float32).reshape(4, 5)
    with np.load(out / "golden" / "outputs.npz") as file:
        assert np.array_equal(found, file["output"])
    failed = subprocess.run(
        [build / "predict", "no.file", "1", "1x2", "none"], capture_output=True, check=False
    )
    assert failed.returncode == 1
    assert failed.stderr.startswith(b"error: ")
