"""Plain ``.pt2`` files of ``torch.export.save``: opened, captured, and refused if anything could be code."""

import io
import json
import pickle
import zipfile

import pytest
import torch
from networks import images
from torch import nn

from zeropoint.errors import InputError
from zeropoint.graph import archive, plain
from zeropoint.graph.capture import capture
from zeropoint.models.source import call


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x, pair, *, mask=None):
        y = self.layer(x) + pair[0] * pair[1]
        return {"y": y if mask is None else y.masked_fill(mask, 0.0)}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)
    ).eval()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "m.pt2"
    free = ({0: torch.export.Dim("n")},)
    torch.export.save(torch.export.export(network(), (images(2),), dynamic_shapes=free), path)
    return path


def test_a_plain_file_is_opened_and_captured(path):
    source = plain.source(path)
    (example,) = source.inputs(3, torch.Generator())
    assert example.shape == (3, 3, 8, 8)
    program = capture(source.network, example)
    assert program.dynamic_batch
    torch.testing.assert_close(program(images(5)), network()(images(5)))
    assert not archive.holds(path, "zeropoint.json")


def test_a_fixed_batch_stays_fixed(tmp_path):
    torch.export.save(torch.export.export(network(), (images(2),)), tmp_path / "m.pt2")
    (example,) = plain.source(tmp_path / "m.pt2").inputs(7, None)
    assert example.shape == (2, 3, 8, 8)


def test_arguments_by_position_and_by_name(tmp_path):
    model = Mixed().eval()
    args, mask = (torch.rand(2, 3), (torch.rand(2), torch.rand(1))), torch.tensor([True, False])
    torch.export.save(torch.export.export(model, args, {"mask": mask}), tmp_path / "m.pt2")
    source = plain.source(tmp_path / "m.pt2")
    made = source.inputs(1, torch.Generator())
    assert list(made) == ["x", "pair", "mask"]
    assert torch.equal(made["mask"], mask)
    expected = model(made["x"], made["pair"], mask=made["mask"])["y"]
    assert torch.equal(call(source.network, made)["y"], expected)


def changed(path, tmp_path, name, change):
    """A copy of the file in which one member is another."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "m.pt2", "w") as copy:
        for member in archive.namelist():
            content = archive.read(member)
            copy.writestr(member, change(content) if member.endswith(name) else content)
    return tmp_path / "m.pt2"


def edited(change):
    def apply(content):
        program = json.loads(content)
        change(program)
        return json.dumps(program).encode()

    return apply


def node(program):
    return program["graph_module"]["graph"]["nodes"][0]


def root(program):
    return program["graph_module"]["module_call_graph"][0]["signature"]


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('this ran')",))


ENUMERATION = json.dumps(
    [1, {"type": None, "context": json.dumps({"__enum__": True, "fqn": "antigravity:x", "name": "y"})}]
)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda program: node(program).update(target="os.system"), r"the operator os\.system"),
        (lambda program: node(program).update(target="torch.ops.aten.from_file.default"), "the operator"),
        (lambda program: root(program).update(in_spec=ENUMERATION), "the structure"),
        (
            lambda program: root(program).update(out_spec='{"default_factory_module": "this"}'),
            "the structure",
        ),
    ],
)
def test_what_could_be_code_is_refused(change, told, path, tmp_path):
    with pytest.raises(InputError, match=rf"holds {told}.*: refused, since loading it could run code"):
        plain.source(changed(path, tmp_path, "model.json", edited(change)))


def test_what_is_code_for_debugging_is_left_out(path, tmp_path):
    def change(program):
        program["guards_code"] = ["exit('this ran')"]
        node(program)["metadata"]["source_fn_stack"] = "x,os.system"

    source = plain.source(changed(path, tmp_path, "model.json", edited(change)))
    x = images(2)
    with torch.no_grad():
        torch.testing.assert_close(call(source.network, (x,)), network()(x))


@pytest.mark.parametrize(
    "content", [b"", pickle.dumps(Evil()), pickle.dumps(((), {}))], ids=["empty", "code", "plain"]
)
def test_sample_inputs_are_read_as_tensors_alone(content, path, tmp_path):
    with pytest.raises(InputError, match="has no sample inputs that can be read safely; export it again"):
        plain.source(changed(path, tmp_path, "sample_inputs/model.pt", lambda _: content))


def test_sample_inputs_with_code_do_not_run(path, tmp_path):
    buffer = io.BytesIO()
    torch.save(((Evil(),), {}), buffer)
    with pytest.raises(InputError, match="has no sample inputs"):
        plain.source(changed(path, tmp_path, "sample_inputs/model.pt", lambda _: buffer.getvalue()))


def test_weights_that_are_pickled_are_refused(path, tmp_path):
    def change(content):
        config = json.loads(content)
        next(iter(config["config"].values()))["use_pickle"] = True
        return json.dumps(config).encode()

    with pytest.raises(InputError, match="holds pickled objects"):
        plain.source(changed(path, tmp_path, "model_weights_config.json", change))


def test_a_file_that_is_no_archive_is_told(tmp_path):
    (tmp_path / "m.pt2").write_bytes(b"rubbish")
    with pytest.raises(InputError, match="is not a saved Program, or is damaged"):
        plain.source(tmp_path / "m.pt2")
    with pytest.raises(InputError, match="no such file"):
        plain.source(tmp_path / "none.pt2")
