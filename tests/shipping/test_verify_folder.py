"""What verify.py finds in a folder that was copied elsewhere, and says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import zeropoint as zp
from zeropoint.targets.processor import PROCESSORS, native

HASWELL = "model name : Haswell\nflags : fpu avx avx2 fma\n"
CASCADE_LAKE = "model name : Cascade Lake\nflags : fpu avx2 avx512f avx512_vnni\n"


def verified(folder, *options: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit status of the folder's own verify.py, and status and words of each check."""
    command = [sys.executable, "-B", str(folder / "verify.py"), "--json", "--seconds", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout) if done.stdout else []
    return done.returncode, {one["check"]: (one["status"], one["words"]) for one in found}


def test_a_folder_copied_elsewhere_is_right(shipped):
    status, found = verified(shipped)
    assert status == 0
    assert found["outputs"] == ("ok", "equal to the golden ones to the bit")
    assert found["kernels"][1] == "3 of 3 layers ran in int8"
    assert "to the bit" in found["preprocessing"][1]
    assert {*found} == {
        "files",
        "engine",
        "processor",
        "preprocessing",
        "outputs",
        "kernels",
        "latency",
        "start",
        "memory",
    }


def test_zeropoint_verify_does_the_same(shipped, tmp_path):
    command = [sys.executable, "-m", "zeropoint", "verify", str(shipped), "--seconds", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "it computes what it did where it was made" in done.stdout
    assert zp.verify(tmp_path) == 2


def test_it_finds_a_truncated_file(shipped):
    path = shipped / "model.onnx"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])
    status, found = verified(shipped)
    assert status == 1
    assert found["files"] == (
        "FAILED", f"model.onnx is truncated: {size // 2:,} of {size:,} bytes; copy the folder again"
    )  # fmt: skip


def test_it_finds_a_wrong_digest(shipped):
    path = shipped / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    status, found = verified(shipped)
    assert status == 1
    assert "model.onnx has another digest" in found["files"][1]
    done = subprocess.run(
        [sys.executable, "-B", str(shipped / "predict.py"), str(shipped / "golden" / "inputs.npz")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "model.onnx has another digest" in done.stderr


def test_it_finds_a_missing_file(shipped):
    (shipped / "golden" / "images" / "0.png").unlink()
    assert verified(shipped)[1]["files"] == (
        "FAILED",
        "golden/images/0.png is missing; copy the folder again",
    )


def test_it_finds_swapped_channels(shipped, change):
    change(preprocessing__channels="BGR")
    status, found = verified(shipped)
    assert status == 1
    assert "red and blue are swapped" in found["preprocessing"][1]
    assert found["outputs"][0] == "ok"


def test_it_finds_a_missing_normalization(shipped, change):
    change(preprocessing__mean=[0, 0, 0], preprocessing__std=[1, 1, 1])
    status, found = verified(shipped)
    assert status == 1
    assert "values go from 0 to 1: they are not normalized by mean and std" in found["preprocessing"][1]


def prepared(shipped, change_of) -> str:
    with np.load(shipped / "golden" / "inputs.npz") as file:
        np.savez(shipped.parent / "mine.npz", x=change_of(file["x"]))
    return str(shipped.parent / "mine.npz")


MEAN, STD = (np.array(values).reshape(3, 1, 1) for values in ((0.4, 0.5, 0.6), (0.3, 0.2, 0.25)))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda x: x[:, ::-1], "red and blue are swapped"),
        (lambda x: 255 * (x * STD + MEAN), "not divided by 255"),
        (lambda x: x * STD + MEAN, "not normalized by mean and std"),
        (lambda x: (x * STD + MEAN)[:, ::-1] * 255, "red and blue are swapped, values go from 0 to 255"),
        (lambda x: x * 1.1 - 1, "mean or std are others"),
        (lambda x: x.transpose(0, 2, 3, 1), "has the channels last; transpose to (4, 3, 8, 8)"),
        (lambda x: x[:, :, ::-1], "look at size, crop and interpolation"),
        (lambda x: x[:, :, :7], "shape (4, 3, 7, 8) and not (4, 3, 8, 8)"),
    ],
)
def test_it_says_what_is_wrong_with_the_inputs_of_other_code(shipped, made, words):
    status, found = verified(shipped, "--prepared", prepared(shipped, made))
    assert status == 1
    assert found["your preprocessing"][0] == "FAILED"
    assert words in found["your preprocessing"][1]


def test_inputs_of_other_code_that_are_right(shipped):
    status, found = verified(shipped, "--prepared", prepared(shipped, lambda x: x + 1e-4))
    assert status == 0
    assert found["your preprocessing"][0] == "ok"


def test_it_finds_an_older_engine(shipped, change):
    change(engine__minimum="99.0", engine__version="99.1")
    status, found = verified(shipped)
    assert status == 1
    assert "is older than 99.0, the minimum; run: pip install" in found["engine"][1]


def test_it_warns_of_an_engine_older_than_the_measured_one(shipped, change):
    change(engine__version="99.1")
    status, found = verified(shipped)
    assert status == 0
    assert found["engine"][0] == "warning"


@pytest.mark.slow
def test_it_finds_the_artefact_of_another_kind_of_processor(tmp_path, inputs):
    other = "vnni" if native().saturates else "avx2"
    program = zp.capture(torch.nn.Conv2d(3, 4, 3), inputs[:2])
    made_for = zp.quantize(
        program, "static", calibration=[inputs], target="onnxruntime", options=zp.Options(processor=other)
    )
    zp.ship(made_for, "onnxruntime", tmp_path / "out", inputs=inputs)
    status, found = verified(tmp_path / "out")
    assert found["processor"][0] == ("FAILED" if native().saturates else "warning")
    assert status == (1 if native().saturates else 0)
    assert PROCESSORS[other].words in found["processor"][1]


def test_an_artefact_for_vnni_fails_on_a_processor_without(original, scripts):
    manifest = json.loads((original / "manifest.json").read_text())
    manifest["processor"]["made_for"] = "vnni"
    found = scripts.processor(manifest, scripts.of_cpuinfo(HASWELL))
    assert found.status == "FAILED"
    assert "this processor has no VNNI and the artefact was made for one" in found.words
    assert found.words.endswith("quantize with --processor avx2, or any for all processors")
    assert scripts.processor(manifest, scripts.of_cpuinfo(CASCADE_LAKE)).status == "ok"
    golden = {"output": np.ones((4, 5), np.float32)}
    noisy = {"output": golden["output"] * (1 + 0.3548)}  # 9 dB
    words = scripts.outputs(manifest, golden, noisy, found).words
    assert words.startswith("9 dB of SQNR to the golden ones")
    assert "no VNNI" in words


@pytest.mark.parametrize("text", [HASWELL, CASCADE_LAKE, "flags : amx_int8", "Features : asimddp", ""])
def test_kinds_of_processors_are_those_of_zeropoint(original, scripts, text):
    from zeropoint.targets.processor import of_instruction_sets, parse_cpuinfo

    kinds = {
        kind["name"]: kind
        for kind in json.loads((original / "manifest.json").read_text())["processor"]["kinds"]
    }
    assert (
        scripts.kind_of(scripts.of_cpuinfo(text), kinds) == of_instruction_sets(parse_cpuinfo(text)[1]).name
    )


def test_it_says_why_it_is_slower(original, scripts):
    manifest = json.loads((original / "manifest.json").read_text())
    manifest["measured"]["latency_ms"]["p50"] = 1.0
    manifest["processor"]["measured_on"] = {
        "name": "Cascade Lake",
        "instruction_sets": ["avx2", "avx512_vnni"],
        "cores": 4,
    }
    cpu = scripts.of_cpuinfo(HASWELL) | {"cores": 1, "load": 3.0}
    seen = {
        "latency_ms": 2.0,
        "threads": 2,
        "kernels": {"int8": 1, "float": 2},
        "engine_version": "1.0",
        "cpu": cpu,
    }
    found = scripts.timing(manifest, seen)
    assert found.status == "warning"
    for words in (
        "2 ms, 2.00 times the 1 ms", "lacks avx512_vnni", "2 threads share 1 cores",
        "1 layers run in int8 and not 3", "the engine is 1.0", "busy (load 3.0 on 1 cores)",
        "Haswell and not Cascade Lake",
    ):  # fmt: skip
        assert words in found.words
    assert scripts.timing(manifest, seen | {"latency_ms": 1.2}).status == "ok"
    assert scripts.kernels(manifest, seen).status == "warning"
    assert scripts.memory(manifest, seen | {"memory_bytes": 10**12}).status == "warning"


def test_a_folder_of_an_earlier_version_is_verified():
    """Each version of the manifest is kept here, and read by every later zeropoint."""
    kept = sorted((Path(__file__).parent / "saved").iterdir())
    assert [path.name for path in kept] == ["format1"]
    for path in kept:
        assert zp.verify(path, "--seconds", "0") == 0


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}'])
def test_a_damaged_manifest_is_one_line(shipped, text):
    (shipped / "manifest.json").write_text(text)
    done = subprocess.run(
        [sys.executable, "-B", str(shipped / "verify.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
