"""Artefacts notice damage: a flipped bit in graph or weights, and files of two artefacts mixed."""

import struct
import zipfile

import numpy as np
import onnx
import pytest
import torch
from networks import Residual, images, randomized, residual

import zeropoint as zp
from zeropoint.engines import artefact, seal
from zeropoint.errors import InputError

FORMS = {"onnx": seal.onnx_seal(), "xml": seal.xml_seal()}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_sealed_is_whole(form, tmp_path):
    graph, weights = tmp_path / "graph", tmp_path / "weights"
    graph.write_bytes(b"\x08\x0a" if form == "onnx" else b"<net/>")
    weights.write_bytes(bytes(100))
    assert seal.damage([graph, weights], FORMS[form]) is None  # of an earlier version, without a seal
    seal.seal([graph, weights], FORMS[form])
    assert seal.damage([graph, weights], FORMS[form]) is None
    weights.write_bytes(bytes(99) + b"\x01")
    assert "digest is another" in seal.damage([graph, weights], FORMS[form])


@pytest.mark.parametrize(
    ("engine", "file"),
    [
        ("onnxruntime", "m.onnx"),
        pytest.param("openvino", "m.openvino.xml", marks=pytest.mark.slow),
        pytest.param("openvino", "m.openvino.bin", marks=pytest.mark.slow),
        ("torch", "m.torch.pt2"),
    ],
)
def test_a_flipped_bit_is_noticed_or_harmless(engine, file, tmp_path):
    path = zp.compile(residual(), engine, threads=1, path=tmp_path / "m").artefact
    expected, generator = artefact.load(path, 1)(images()), np.random.default_rng(0)
    content = (tmp_path / file).read_bytes()
    for place in generator.integers(0, 8 * len(content), 25):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << (place % 8)
        (tmp_path / file).write_bytes(damaged)
        try:
            found = artefact.load(path, 1)(images())
        except InputError:
            continue
        assert torch.equal(found, expected)
    middle = bytearray(content)
    middle[len(content) // 2] ^= 1
    (tmp_path / file).write_bytes(middle)
    with pytest.raises(InputError, match=r"damaged|digest|Bad (CRC|magic)"):
        artefact.load(path, 1)


@pytest.mark.slow
def test_weights_of_another_artefact_are_noticed(tmp_path):
    paths = []
    for number in range(2):
        program = zp.capture(randomized(Residual(), seed=number), images(2))
        paths.append(zp.compile(program, "openvino", path=tmp_path / f"m{number}").artefact)
    paths[0].with_suffix(".bin").write_bytes(paths[1].with_suffix(".bin").read_bytes())
    with pytest.raises(InputError, match="its digest is another than when it was written"):
        artefact.load(paths[0])


@pytest.mark.slow
def test_a_flipped_bit_in_a_compiled_package_is_noticed(tmp_path):
    program = zp.quantize(residual(), "static", calibration=[images()], target="torch")
    path = zp.compile(program, "torch", path=tmp_path / "m").artefact
    with zipfile.ZipFile(path) as package:  # between its members there are bytes that mean nothing
        largest = max(package.infolist(), key=lambda member: member.compress_size)
    content = bytearray(path.read_bytes())
    name, extra = struct.unpack_from("<HH", content, largest.header_offset + 26)
    content[largest.header_offset + 30 + name + extra + largest.compress_size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="compile the model again"):
        artefact.load(path)


def test_a_sealed_file_is_plain_onnx(tmp_path):
    path = zp.compile(residual(), "onnxruntime", path=tmp_path / "m").artefact
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.key for entry in model.metadata_props} >= {seal.KEY, "zeropoint_signature"}
    model.graph.name = "another"
    onnx.save(model, path)
    with pytest.raises(InputError, match="it is damaged, or was changed; compile the model again"):
        artefact.load(path)
