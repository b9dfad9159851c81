import io
import json
import pickle
import resource
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import ADDS_INSIDE, bf16, dynamic, images, options, residual, static
from torch import nn

from zeropoint.errors import InputError
from zeropoint.graph import archive as archives
from zeropoint.graph.archive import FILE_VERSION
from zeropoint.graph.batch import Batch
from zeropoint.graph.capture import capture
from zeropoint.graph.program import METADATA, at_batch, flat_tensors, load


def programs():
    program = residual()
    yield "fp32", program
    yield "bf16", bf16(program)
    yield "dynamic", dynamic(program, ADDS_INSIDE, options())
    for bits in (8, 6, 4, 3, 2):
        yield f"static{bits}", static(program, ADDS_INSIDE, [images()], options(weight_bits=bits))
    affine = options(weight_bits=5, weight_symmetric=False, weight_granularity="per-tensor")
    yield "affine", static(program, ADDS_INSIDE, [images()], affine)


PROGRAMS = dict(programs())


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request):
    return PROGRAMS[request.param]


def same_program(one, other):
    fields = (
        "method",
        "origin",
        "target",
        "weight_bits",
        "activation_bits",
        "batch",
        "quantize_seconds",
    )
    assert all(getattr(one, field) == getattr(other, field) for field in fields)
    assert one.signature.to_json() == other.signature.to_json()
    for batch in (1, 2, 5):
        for a, b in zip(one(images(batch)), other(images(batch)), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_round_trip(program, tmp_path):
    program = replace(program, origin="here", quantize_seconds=1.5)
    program.save(tmp_path / "a.pt2")
    loaded = load(tmp_path / "a.pt2")
    same_program(program, loaded)
    assert [tensor.shape for tensor in loaded.example_inputs] == [
        tensor.shape for tensor in program.example_inputs
    ]
    loaded.save(tmp_path / "b.pt2")
    same_program(program, load(tmp_path / "b.pt2"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt2", "b.pt2"]


@pytest.mark.slow
def test_plain_torch_runs_the_files(tmp_path):
    expected = {}
    for name, program in PROGRAMS.items():
        program.save(tmp_path / f"{name}.pt2")
        expected[f"{name}.pt2"] = program(images(3))
    torch.save((images(3), expected), tmp_path / "expected")
    code = """
import sys
sys.modules["zeropoint"] = None
import torch
x, expected = torch.load("expected")
for name, output in expected.items():
    actual = torch.export.load(name).module()(x)
    assert torch.equal(actual, output), (name, (actual - output).abs().max())
"""
    assert len(expected) == 9
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_not_a_word_of_the_users_files_in_it(tmp_path):
    residual().save(tmp_path / "a.pt2")
    with zipfile.ZipFile(tmp_path / "a.pt2") as archive:
        assert not any(
            str(Path(__file__).parent).encode() in archive.read(name) for name in archive.namelist()
        )


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 6, 4, 3, 2])
def test_size_is_what_the_bits_promise(bits, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512)).eval()
    program = dynamic(capture(model, torch.randn(2, 512)), ADDS_INSIDE, options(weight_bits=bits))
    program.save(tmp_path / "a.pt2")
    promised = 2 * 512 * 1024 * bits / 8
    assert promised < (tmp_path / "a.pt2").stat().st_size < 1.1 * promised + 200_000


def test_batch_arithmetic_in_the_graph_survives(tmp_path):
    class Pairs(nn.Module):
        def forward(self, x):
            return x.reshape(x.shape[0] // 2, 2, -1).sum(1)

    capture(Pairs(), images(2)).save(tmp_path / "a.pt2")
    expected = images(6).reshape(3, 2, -1).sum(1)
    torch.testing.assert_close(load(tmp_path / "a.pt2")(images(6)), expected)


def test_names_that_look_like_a_quantizers(tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(3) * 2)
            self.weight_scale = nn.Parameter(torch.tensor([3.0]))
            self.weight_zero_point = nn.Parameter(torch.tensor([5.0]))

        def forward(self, x):
            return nn.functional.linear(x, self.weight) * self.weight_scale + self.weight_zero_point

    program = dynamic(capture(Scaled(), torch.randn(2, 3)), ADDS_INSIDE, options())
    x = torch.tensor([[1.0, 0.0, -1.0]])
    torch.testing.assert_close(program(x), x * 6 + 5, rtol=0.02, atol=0.02)
    program.save(tmp_path / "a.pt2")
    assert torch.equal(load(tmp_path / "a.pt2")(x), program(x))


def test_small_helpers():
    assert [t.item() for t in flat_tensors({"b": torch.tensor(1), "a": (torch.tensor(2), [None, 3])})] in (
        [1, 2],
        [2, 1],
    )
    assert at_batch(residual(), 7).example_inputs[0].shape == (7, 3, 8, 8)
    assert at_batch(replace(residual(), batch=Batch((None,), (None,))), 7).example_inputs[0].shape == (
        2,
        3,
        8,
        8,
    )


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file" / "a.pt2"):
        with pytest.raises(InputError, match="cannot write"):
            residual().save(place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_full_disk(tmp_path):
    """The system lets the process write no file of more than 1 kB."""
    program = capture(nn.Linear(64, 64), torch.ones(2, 64))
    usual, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, most))
    try:
        with pytest.raises(InputError, match=r"cannot write .*a\.pt2"):
            program.save(tmp_path / "a.pt2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (usual, most))
    assert list(tmp_path.iterdir()) == []


# Files that are no saved Program, or only look like one.


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "a.pt2"
    residual().save(path)
    return path


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


def doctored(source, target, change):
    """Copies the archive with ``change``, a function of its members {name: content}, applied."""
    with zipfile.ZipFile(source) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(members)
    members[archives.DIGESTS] = archives.digests(members).encode()  # as who doctors a file would
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{target.stem}/{name}", content)
    return target


def edit_json(members, name, change):
    content = json.loads(members[name])
    change(content)
    members[name] = json.dumps(content).encode()


def refused(path, marker, match):
    with pytest.raises(InputError, match=match) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_doctoring_itself_is_harmless(saved, tmp_path):
    same_program(residual(), load(doctored(saved, tmp_path / "b.pt2", lambda members: None)))


def test_weights_are_compressed_if_they_are_integers(tmp_path):
    program = capture(nn.Linear(64, 64), torch.randn(4, 64))
    static(program, ADDS_INSIDE, [torch.randn(4, 64)], options()).save(tmp_path / "a.pt2")
    with zipfile.ZipFile(tmp_path / "a.pt2") as archive:
        weights = [one for one in archive.infolist() if "/weight_" in one.filename]
    compressed = {one.file_size: one.compress_type == zipfile.ZIP_DEFLATED for one in weights}
    assert compressed.pop(64 * 64) is True  # the integers
    assert not any(compressed.values())  # scales and biases
    assert torch.export.load(tmp_path / "a.pt2").module()(torch.zeros(2, 64)).shape == (2, 64)


@pytest.mark.parametrize("share", [0, 1, 100, 0.3, 0.9, 0.999])
def test_truncated(saved, tmp_path, marker, share):
    content = saved.read_bytes()
    (tmp_path / "b.pt2").write_bytes(
        content[: share if isinstance(share, int) else int(share * len(content))]
    )
    refused(tmp_path / "b.pt2", marker, "not a saved Program")


def test_every_damaged_byte_is_noticed_or_harmless(saved, tmp_path, marker):
    content = saved.read_bytes()
    for position in range(0, len(content), len(content) // 40):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        (tmp_path / "b.pt2").write_bytes(damaged)
        try:
            loaded = load(tmp_path / "b.pt2")
        except InputError:
            continue
        same_program(residual(), loaded)


def test_other_files(tmp_path, marker):
    refused(tmp_path / "absent.pt2", marker, "no such file")
    refused(tmp_path, marker, "no such file")
    path = tmp_path / "b.pt2"
    path.write_bytes(torch.randint(0, 256, (5000,), dtype=torch.uint8).numpy().tobytes())
    refused(path, marker, "not a saved Program")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b", "c")
    refused(path, marker, "not a Program saved by zeropoint")
    torch.save({"state": Payload(marker)}, path)
    refused(path, marker, "not a Program saved by zeropoint")
    path.write_bytes(pickle.dumps(Payload(marker)))
    refused(path, marker, "not a saved Program")
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), path)
    refused(path, marker, "not a Program saved by zeropoint")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda metadata: metadata.update(version=FILE_VERSION + 1), "newer zeropoint"),
        (lambda metadata: metadata.update(version="x"), "newer zeropoint"),
        (lambda metadata: metadata.pop("method"), "lacks method"),
        (lambda metadata: metadata.update(inputs=3), "cannot load"),
        (lambda metadata: metadata["inputs"][0].update(dtype="load"), "cannot load"),
    ],
)
def test_metadata(saved, tmp_path, marker, change, match):
    def edit(members):
        edit_json(members, f"extra/{METADATA}", change)

    refused(doctored(saved, tmp_path / "b.pt2", edit), marker, match)


def test_older_files_do_not_tell_what_was_skipped(saved, tmp_path):
    def edit(members):
        edit_json(members, f"extra/{METADATA}", lambda metadata: metadata.pop("skip"))

    assert load(doctored(saved, tmp_path / "b.pt2", edit)).skip == ()


def test_a_newer_format_is_no_code(saved, tmp_path, marker):
    def edit(members):
        edit_json(members, f"extra/{METADATA}", lambda metadata: metadata.update(version=FILE_VERSION + 1))
        members["data/new_kind/0"] = b""

    refused(doctored(saved, tmp_path / "b.pt2", edit), marker, "upgrade zeropoint")


def test_metadata_that_is_no_object(saved, tmp_path, marker):
    for content in (b"[]", b"3", b"{", b"\xff", b"[" * 100_000):
        path = doctored(
            saved, tmp_path / "b.pt2", lambda m, content=content: m.update({f"extra/{METADATA}": content})
        )
        refused(path, marker, "not a saved Program")


def pickled(marker):
    buffer = io.BytesIO()
    torch.save(Payload(marker), buffer)
    return buffer.getvalue()


def test_pickled_weights(saved, tmp_path, marker):
    def edit(members):
        def mark(config):
            first = next(iter(config["config"].values()))
            first["use_pickle"] = True
            members[f"data/weights/{first['path_name']}"] = pickled(marker)

        edit_json(members, "data/weights/model_weights_config.json", mark)

    refused(doctored(saved, tmp_path / "b.pt2", edit), marker, "pickled objects")


@pytest.mark.parametrize(
    "member",
    [
        "data/sample_inputs/model.pt",
        "data/weights/model.pt",
        "data/weights/weight_x.pt",
        "data/constants/model.pt",
        "data/constants/opaque_obj_0",
        "data/constants/custom_obj_0",
        "data/aotinductor/model/model.so",
        "Data/Sample_Inputs/Model.pt",
        "models/other.json",
    ],
)
def test_members_that_could_be_code(saved, tmp_path, marker, member):
    path = doctored(saved, tmp_path / "b.pt2", lambda members: members.update({member: pickled(marker)}))
    refused(path, marker, "refused")


def test_two_members_of_one_name(saved, tmp_path, monkeypatch):
    """Torch is handed what was looked at, whichever of the two it would have taken."""
    path = tmp_path / "b.pt2"
    path.write_bytes(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        name = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        content = archive.read(name)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, content.replace(b"torch.ops.aten.conv2d.default", b"torch.load"))
    with pytest.raises(InputError, match=r"models/model\.json has another digest than when it was saved"):
        load(path)
    monkeypatch.setattr(archives, "check_digests", lambda _: None)  # whose digests may be made to fit
    with pytest.raises(InputError, match=r"the operator torch\.load"):
        load(path)


@pytest.mark.parametrize(
    "target",
    [
        "torch.load",
        "torch.hub.load",
        "torch.ops.load_library",
        "torch.ops.aten.conv2d.__globals__",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.from_file.out",
        "torch.ops.prim.device.default",
        "torch.ops.zeropoint.dynamic_linear.default",
        "torch._utils.os.system",
        "_operator.__call__",
        "_operator.call",
        "_operator.attrgetter",
        "math.prod",
        "#extension",
        "os.system",
    ],
)
def test_operators(saved, tmp_path, marker, target):
    def edit(members):
        text = members["models/model.json"]
        members["models/model.json"] = text.replace(b"torch.ops.aten.conv2d.default", target.encode())
        assert text != members["models/model.json"]

    refused(doctored(saved, tmp_path / "b.pt2", edit), marker, "the operator")


@pytest.mark.parametrize("kind", ["call", "attribute", "string"])
def test_size_expressions(saved, tmp_path, marker, kind):
    expression = {
        "call": f"__import__('pathlib').Path('{marker}').touch()",
        "attribute": "().__class__.__base__.__subclasses__()",
        "string": "eval('1')",
    }[kind]

    def edit(members):
        def replace_all(part):
            if isinstance(part, dict):
                if "expr_str" in part:
                    part["expr_str"] = expression
                part = list(part.values())
            for item in part if isinstance(part, list) else []:
                replace_all(item)

        before = members["models/model.json"]
        edit_json(members, "models/model.json", replace_all)
        assert expression.encode() in members["models/model.json"].replace(b'\\"', b'"') != before

    refused(doctored(saved, tmp_path / "b.pt2", edit), marker, "the size expression")


def test_printed_it_is_a_line():
    program = replace(static(residual(), ADDS_INSIDE, [images()], options()), origin="here", processor="avx2")
    nodes = program.module.graph.nodes
    quantizers = sum("fake_quantize" in str(node.target) for node in nodes)
    # Weights of int8 and biases of float32, with a scale for each of the 4 + 4 + 5 outputs.
    size = 4 * 3 * 9 + 4 * 4 * 9 + 64 * 5 + 4 * 13 + 4 * 13
    line = f"3 layers with weights · {quantizers} quantizers · {size} bytes"
    assert str(program) == f"here · static W8A8 for inside on avx2 · {line}"
    assert str(residual()).startswith("fp32 · 3 layers with weights · 0 quantizers · ")
