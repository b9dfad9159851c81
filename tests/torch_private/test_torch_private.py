"""Each private part of PyTorch that is used does what it did in the version named here.

After an upgrade of torch a failure here names the part that changed; the rest of the suite need not be read.
"""

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.fx import symbolic_trace
from torch.nn.modules import transformer

from zeropoint.errors import InputError
from zeropoint.torch_private import compiler, conversions, graphs, masks, onnx, operators, tensors, trees
from zeropoint.torch_private.pairs import pairs

SEEN_WITH = "2.13"
aten = torch.ops.aten


class Named(nn.Module):
    """A module with a parameter and a buffer of its own, and a structured output."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, 3.0]))
        self.register_buffer("offset", torch.ones(2))
        self.inner = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"sum": self.inner(x) * self.weight + self.offset}


def exported() -> torch.export.ExportedProgram:
    return torch.export.export(Named().eval(), (torch.ones(1, 2),))


def test_this_is_the_version_that_all_was_seen_with():
    assert torch.__version__.startswith(f"{SEEN_WITH}."), (
        f"run the tests below, then write {torch.__version__}"
    )


def test_torch_2_13_operators_on_fake_tensors_keep_free_sizes():
    free = torch.export.export(
        nn.Flatten(), (torch.ones(3, 2, 4),), dynamic_shapes=({0: torch.export.Dim.AUTO},)
    )
    (value,) = [node.meta["val"] for node in free.graph.nodes if node.op == "placeholder"]
    padded = operators.on_fake(aten.constant_pad_nd.default, value, [1, 1], 0.0)
    assert isinstance(padded.shape[0], torch.SymInt)
    assert padded.shape[1:] == (2, 6)


def test_torch_2_13_operators_have_signatures():
    assert operators.is_operator(aten.relu.default)
    assert not operators.is_operator(aten.relu)
    assert not operators.is_operator(torch.relu)
    assert operators.is_higher_order(torch.ops.higher_order.cond)
    assert not operators.is_higher_order(aten.relu.default)
    signature = operators.signature(aten.relu_.default)
    assert [argument.name for argument in signature.arguments] == ["self"]
    assert signature.is_mutable
    assert signature.arguments[0].alias_info is not None
    assert len(operators.signature(aten.split.Tensor).returns) == 1
    assert operators.signature(len) is None


def test_torch_2_13_kernels_are_known_by_dispatch_key():
    assert operators.has_kernel("aten::relu", "CPU")
    assert operators.has_kernel("aten::reshape", "CompositeImplicitAutograd")
    assert not operators.has_kernel("aten::relu", "CompositeImplicitAutograd")
    assert operators.has_bfloat16_kernels() in (True, False)


def test_torch_2_13_composite_operators_are_looked_for_once(monkeypatch: pytest.MonkeyPatch):
    looks, look = [], torch._C._dispatch_get_registrations_for_dispatch_key
    monkeypatch.setattr(
        torch._C, "_dispatch_get_registrations_for_dispatch_key", lambda key: looks.append(key) or look(key)
    )
    program = torch.export.export(nn.Hardswish().eval(), (torch.ones(3, 2),))
    expected = program.run_decompositions()
    assert looks.count("CompositeImplicitAutograd") > 1
    looks.clear()
    with operators.composites_listed_once():
        found = program.run_decompositions()
    assert looks == ["CompositeImplicitAutograd"]
    assert str(found.graph) == str(expected.graph)
    program.run_decompositions()
    assert len(looks) > 2  # operators may be added after


def test_torch_2_13_pairs_quantize_and_dequantize():
    x = torch.tensor([-1.0, 0.26, 100.0])
    integers = pairs.quantize_per_tensor.default(x, 0.5, 10, 0, 255, torch.uint8)
    assert integers.tolist() == [8, 11, 210]
    floats = pairs.dequantize_per_tensor.default(integers, 0.5, 10, 0, 255, torch.uint8)
    assert floats.tolist() == [-1.0, 0.5, 100.0]
    weight = torch.tensor([[2], [4]], dtype=torch.int8)
    scales, zeros = torch.tensor([0.5, 2.0]), torch.zeros(2, dtype=torch.int64)
    found = pairs.dequantize_per_channel.default(weight, scales, zeros, 0, -128, 127, torch.int8)
    assert found.tolist() == [[1.0], [8.0]]


def test_torch_2_13_modules_are_converted_by_apply():
    layer = nn.Linear(2, 2)
    layer.register_buffer("count", torch.zeros(1, dtype=torch.long))
    weight = layer.weight
    with conversions.conversions_skipped():
        assert layer.to("cpu", torch.float32) is layer
        assert layer.weight is weight
        assert layer.double().weight.dtype == torch.float64
    assert layer.float().weight.dtype == torch.float32


def test_torch_2_13_transformers_look_at_their_masks():
    mask = nn.Transformer.generate_square_subsequent_mask(3)
    look = transformer._detect_is_causal_mask
    assert look(mask)
    with masks.masks_unread():
        assert not transformer._detect_is_causal_mask(mask)
        assert transformer._detect_is_causal_mask(mask, is_causal=True)
    assert transformer._detect_is_causal_mask is look


def test_torch_2_13_trees():
    tree = {"a": (1, [2.0, None]), "b": torch.float32}
    assert trees.tree_leaves(tree) == [1, 2.0, None, torch.float32]
    assert trees.tree_map_only(int, lambda value: -value, tree)["a"] == (-1, [2.0, None])
    assert trees.tree_structure(tree) == trees.tree_structure({"a": (5, [6, None]), "b": 7})


def test_torch_2_13_calling_of_a_graph_is_copied():
    module = exported().module()
    graph = torch.fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    graphs.copy_calling(module.graph, graph)
    found = torch.fx.GraphModule(module, graph)(torch.ones(1, 2))
    assert list(found) == ["sum"]
    assert graphs.output_structure(module.graph, [7]) == {"sum": 7}
    assert graphs.output_structure(symbolic_trace(nn.ReLU()).graph, [7]) == (7,)


def test_torch_2_13_names_of_own_tensors():
    assert graphs.tensor_names(Named()) == ["weight", "offset"]


def test_torch_2_13_verifier_takes_what_export_gives():
    program = exported()
    graphs.VERIFIER().check(program)
    assert program.verifier is graphs.VERIFIER


def test_torch_2_13_example_inputs_are_not_saved():
    def saved(program: torch.export.ExportedProgram) -> int:
        file = io.BytesIO()
        torch.export.save(program, file)
        return len(file.getvalue())

    program = torch.export.export(nn.ReLU(), (torch.randn(100_000),))
    before = saved(program)
    graphs.drop_example_inputs(program)
    assert before - saved(program) > 350_000


def test_torch_2_13_lists_of_tensors_change_in_place():
    values = [torch.tensor([0.0, 4.0]), torch.tensor([-2.0])]
    tensors.lerp_(values, [torch.tensor([4.0, 4.0]), torch.tensor([2.0])], 0.25)
    assert [value.tolist() for value in values] == [[1.0, 4.0], [-1.0]]
    tensors.clamp_min_(values, 2.0)
    assert [value.tolist() for value in values] == [[2.0, 4.0], [2.0]]


def test_torch_2_13_a_graph_break_is_a_compile_error():
    @torch.compile(fullgraph=True, backend="eager")
    def broken(x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x

    with pytest.raises(compiler.compile_error()):
        broken(torch.ones(1))


@pytest.mark.slow
def test_torch_2_13_a_package_has_its_metadata_kernels_and_allocator(tmp_path: Path):
    package = tmp_path / "model.pt2"
    program = torch.export.export(nn.Linear(8, 4).eval(), (torch.ones(3, 8),))
    assert compiler.compile_package(program, package, metadata={"mine": "4"}, one_thread=True) == []
    assert compiler.package_metadata(package)["mine"] == "4"
    assert compiler.load_package(package).loader.get_metadata()["mine"] == "4"
    x = torch.randn(3, 8)
    with torch.no_grad():
        torch.testing.assert_close(compiler.load_package(package)(x), program.module()(x))
    assert [kernel for kernel in compiler.called_kernels(package) if "linear" in kernel or "addmm" in kernel]
    with zipfile.ZipFile(package) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".so"))
        library = archive.read(name)
    places = library.count(b"\0malloc\0")
    assert places
    aligned = compiler.with_aligned_weights(library)
    assert len(aligned) == len(library)
    assert sum(one != other for one, other in zip(aligned, library, strict=True)) == places  # the m's


def test_torch_2_13_weights_of_integer_convolutions_are_laid_out_in_a_thread_of_their_own(monkeypatch):
    threads = []
    original = compiler._in_thread
    monkeypatch.setattr(compiler, "_in_thread", lambda *args: threads.append(args) or original(*args))
    weight = torch.ones(4, 4, 1, 1, dtype=torch.int8)
    arguments = (weight, torch.ones(4), 1.0, 0, [1, 1], [0, 0], [1, 1], 1, [1, 4, 8, 8])
    plain = torch.ops.onednn.qconv_prepack(*arguments)
    assert not threads
    with compiler._own_layouts():
        found = torch.ops.onednn.qconv_prepack(*arguments)
    assert len(threads) == 1
    assert found.shape == plain.shape
    torch.ops.onednn.qconv_prepack(*arguments)
    assert len(threads) == 1


@pytest.mark.slow
def test_torch_2_13_export_to_onnx_is_that_of_the_public_function():
    import onnxscript

    program = torch.export.export(nn.Sequential(nn.Linear(2, 2), nn.Hardswish()).eval(), (torch.ones(3, 2),))
    functions = {aten.linear.default: lambda x, weight, bias: onnxscript.opset20.Identity(x)}
    options = {"dynamo": True, "verbose": False, "optimize": False}
    plain, own = (
        torch.onnx.export(program, (), custom_translation_table=t, **options) for t in ({}, functions)
    )
    assert plain.model_proto != own.model_proto
    for expected, table in ((own, functions), (plain, {})):  # what one call adds, the next does not know
        assert onnx.to_onnx(program, table).model_proto == expected.model_proto


def test_metadata_is_read_without_loading_code(tmp_path: Path):
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data/aotinductor/model/x.wrapper_metadata.json", json.dumps({"mine": "1"}))
    assert compiler.package_metadata(path) == {"mine": "1"}


def test_torch_2_13_a_missing_compiler_is_named(monkeypatch, tmp_path: Path):
    def fail(*_: object, **__: object) -> None:
        raise torch._inductor.exc.InvalidCxxCompiler

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    with pytest.raises(InputError, match=r"needs a C\+\+ compiler"):
        compiler.compile_package(exported(), tmp_path / "m.pt2", metadata={}, one_thread=True)
