"""Programs put together as ExportedPrograms are what torch.export makes of them, without a trace."""

import dataclasses
from collections import Counter

import pytest
import torch
from mixed import ManyOutputs, Mixed, Recurrent, Transformer, TwoInputs, batches
from networks import randomized
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_leaves

from zeropoint.engines import compile
from zeropoint.graph.batch import Batch
from zeropoint.graph.capture import capture
from zeropoint.graph.edits import copy
from zeropoint.graph.exported import assemble, complete_shapes
from zeropoint.graph.packing import pack
from zeropoint.graph.program import Program
from zeropoint.quantization import quantize
from zeropoint.torch_private.graphs import write_code

MODELS = {
    "mixed": (Mixed, [(3, 16, 16)]),
    "many outputs": (ManyOutputs, [(3, 16, 16)]),
    "two inputs": (TwoInputs, [(6,), (4,)]),
    "lstm": (lambda: Recurrent(nn.LSTM), [(2, 6)]),
    "transformer": (Transformer, [(5, 8)]),
}


def program_of(model: str, method: str) -> tuple[Program, list[tuple[Tensor, ...]]]:
    make, shapes = MODELS[model]
    inputs = list(zip(*(batches(*shape) for shape in shapes), strict=True))
    program = capture(randomized(make()), inputs[0])
    return quantize(program, method, calibration=inputs, target="openvino"), inputs


def traced(program: Program) -> ExportedProgram:
    shapes = tuple({0: Dim.AUTO} for _ in program.example_inputs)
    write_code(program.module)
    with torch.no_grad():
        exported = torch.export.export(program.module, program.example_inputs, dynamic_shapes=shapes)
    for node in list(exported.graph.nodes):  # which a trace puts before conversions
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            exported.graph.erase_node(node)
    exported.graph.eliminate_dead_code()
    return exported


def described(value: object, batch: int = 0) -> object:
    """Type and shape of a value, with symbolic sizes, and multiples of ``batch``, as one."""
    if isinstance(value, Tensor):
        fixed = (isinstance(size, int) and not (batch and size % batch == 0) for size in value.shape)
        return value.dtype, [
            size if is_fixed else "s" for size, is_fixed in zip(value.shape, fixed, strict=True)
        ]
    return [described(part, batch) for part in value] if isinstance(value, (list, tuple)) else "size"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "method"),
    [*((model, "static") for model in MODELS), ("mixed", "fp32"), ("transformer", "dynamic")],
)
def test_assembled_is_what_torch_exports(model: str, method: str):
    program, inputs = program_of(model, method)
    program = dataclasses.replace(program, module=pack(program.module))
    found, expected = assemble(program.module), traced(program)
    specs, operators = [], []
    for e in (found, expected):
        specs.append(Counter((spec.kind, spec.target) for spec in e.graph_signature.input_specs))
        calls = [(n.target, described(n.meta["val"])) for n in e.graph.nodes if n.op == "call_function"]
        operators.append([call for call in calls if call[1] != "size"])  # the place of sizes does not matter
    assert specs[0] == specs[1]
    assert operators[0] == operators[1]
    ranges = [[(r.lower, r.upper) for r in e.range_constraints.values()] for e in (found, expected)]
    assert ranges[0] == ranges[1]
    for size in (2, 5):
        batch = tuple(tensor[:size] for tensor in inputs[1])
        with torch.no_grad():
            results = [e.module()(*batch) for e in (found, expected)]
        assert torch.utils._pytree.tree_structure(results[0]) == torch.utils._pytree.tree_structure(
            results[1]
        )
        for a, b in zip(tree_leaves(results[0]), tree_leaves(results[1]), strict=True):
            assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "method"), [*((model, "static") for model in MODELS), ("transformer", "dynamic")]
)
def test_shapes_that_passes_leave_are_those_of_the_values(model: str, method: str):
    program, _ = program_of(model, method)
    module = copy(program.module)
    complete_shapes(module)
    size = 11  # divides no other axis
    inputs = [batches(*shape, size=size)[0] for shape in MODELS[model][1]]

    class Checked(torch.fx.Interpreter):
        seen = 0

        def run_node(self, node: torch.fx.Node) -> object:
            value = super().run_node(node)
            if node.op != "output":
                assert described(value, size) == described(node.meta["val"])
                self.seen += 1
            return value

    checker = Checked(module)
    with torch.no_grad():
        checker.run(*inputs)
    assert checker.seen == len(module.graph.nodes) - 1


class OfTwo(nn.Module):
    """Takes two images a batch, and no other number; one output is no tensor, and one comes twice."""

    def forward(self, x: Tensor) -> dict[str, object]:
        x = x.reshape(2, -1)
        return {"sum": x.sum(1), "none": None, "again": [x, x]}


def test_fixed_batch_and_outputs_that_are_no_tensors():
    x = torch.randn(2, 3, 4)
    program = capture(OfTwo(), x)
    assert not program.dynamic_batch
    exported = assemble(program.module, signature=program.signature)
    assert not exported.range_constraints
    result = exported.module()(x)
    assert result["none"] is None
    assert torch.equal(result["sum"], x.reshape(2, -1).sum(1))
    assert all(torch.equal(again, x.reshape(2, -1)) for again in result["again"])


def test_a_tensor_of_two_nodes_is_one_input():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    program = capture(Tied(), torch.randn(2, 4))
    module = copy(program.module)
    (weight,) = module.graph.find_nodes(op="get_attr")
    with module.graph.inserting_after(weight):
        again = module.graph.get_attr(weight.target)
    (product,) = module.graph.output_node().all_input_nodes
    with module.graph.inserting_after(product):
        twice = module.graph.call_function(torch.ops.aten.matmul.default, (product, again))
    product.replace_all_uses_with(twice, delete_user_cb=lambda user: user is not twice)
    exported = assemble(module)
    assert Counter(spec.target for spec in exported.graph_signature.input_specs) == {"weight": 1, None: 1}
    x = torch.randn(4, 4)
    stored = program.module.weight  # of the layer, transposed
    torch.testing.assert_close(exported.module()(x), x @ stored.T @ stored)


class Branch(nn.Module):
    """A layer, and one of two sums by what the input is like; (N, 4) to (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (self.linear(x),))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("method", ["fp32", "static"])
def test_branches_are_traced(engine: str, method: str, tmp_path):
    x = batches(4)[0]
    program = capture(randomized(Branch()), x)
    quantized = quantize(program, method, calibration=[x, -x], target=engine)
    quantized.save(tmp_path / "program.pt2")
    loaded = torch.export.load(tmp_path / "program.pt2").module()
    runner = compile(quantized, engine, threads=1)
    for batch in (x.abs(), -x.abs()):
        torch.testing.assert_close(loaded(batch), quantized(batch))
        # The other branch is 2 away; within one, a value may fall on the other side of a rounding.
        torch.testing.assert_close(runner(batch), quantized(batch), rtol=0, atol=0.1)


@pytest.mark.slow
def test_saving_traces_nothing(tmp_path, monkeypatch: pytest.MonkeyPatch):
    program, inputs = program_of("mixed", "static")
    monkeypatch.setattr(torch.export, "export", None)
    for saved in (program, dataclasses.replace(program, batch=Batch((None,), (None,)))):
        saved.save(tmp_path / "program.pt2")
        loaded = torch.export.load(tmp_path / "program.pt2").module()
        assert torch.equal(loaded(*inputs[0]), program(*inputs[0]))


def test_a_tensor_that_a_pass_recorded_has_fixed_sizes():
    """As its value: an export would give it sizes of its own, which no input has."""
    program = capture(randomized(nn.Linear(4, 4)), torch.randn(2, 4))
    module = copy(program.module)
    (weight,) = (node for node in module.graph.find_nodes(op="get_attr") if "weight" in node.name)
    (layer,) = module.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    with module.graph.inserting_after(weight):
        moved = module.graph.call_function(torch.ops.aten.mul.Tensor, (weight, 2.0))
    moved.meta["val"] = torch.randn(4, 4)
    weight.replace_all_uses_with(moved, delete_user_cb=lambda user: user is not moved)
    complete_shapes(module)
    assert moved.meta["val"].fake_mode is layer.meta["val"].fake_mode
    assert all(isinstance(size, int) for size in moved.meta["val"].shape)
