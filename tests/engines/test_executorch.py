"""ExecuTorch: its rules, the graph that XNNPACK is given, and, where it is installed, what it computes."""

import importlib.util
from pathlib import Path

import pytest
import torch
from mixed import assert_parity
from torch import Tensor, nn
from torch.nn import functional

import zeropoint as zp
from zeropoint import engines
from zeropoint.engines import artefact
from zeropoint.engines.executorch.rewrites import (
    DEQUANTIZE,
    QUANTIZE,
    REWRITES,
    in_integers,
    with_run_time_ranges,
)
from zeropoint.engines.qdq import to_pairs
from zeropoint.engines.rewrites import apply
from zeropoint.errors import InputError
from zeropoint.graph.operators import FAKE_QUANTIZE_TENSOR, WEIGHTED, aten
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import quantizers
from zeropoint.numerics.sqnr import sqnr_db
from zeropoint.targets.processor import mismatch, native

IS_INSTALLED = importlib.util.find_spec("executorch") is not None
needs_executorch = pytest.mark.skipif(not IS_INSTALLED, reason="needs: pip install 'zeropoint[executorch]'")


class Net(nn.Module):
    """Convolutions, ReLU6, pooling, a sum, a concatenation, a mean and a product: (N, 3, 8, 8) to (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.head = nn.Parameter(torch.randn(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu6(self.stem(x)), 2)
        x = functional.relu(x + self.deep(x))
        return torch.cat([self.left(x), self.right(x)], 1).mean((2, 3)) @ self.head


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def quantized(model: nn.Module, data: list[Tensor], method: str = "static", **options: object) -> Program:
    options = {"rounding": "nearest", **options}
    program = zp.capture(model.eval(), data[0])
    settings = zp.Options(**options)  # type: ignore[arg-type]
    return zp.quantize(program, method, calibration=data, target="executorch", options=settings)


def lowered(program: Program) -> torch.fx.GraphModule:
    module = with_run_time_ranges(program.module)
    module = to_pairs(zp.Program(module, program.example_inputs, program.batch, program.signature))
    apply(REWRITES, module)
    module.recompile()
    return module


def test_every_operator_lies_between_quantizers():
    program = quantized(Net(), [images()])
    module = lowered(program)
    layers = [node for node in module.graph.nodes if node.target in WEIGHTED]
    assert len(layers) == 5
    assert all(map(in_integers, layers))
    moved = (aten.add.Tensor, aten.cat.default, aten.mean.dim, aten.max_pool2d.default)
    for node in module.graph.nodes:
        if node.target in moved:
            assert all(source.target is DEQUANTIZE for source in node.all_input_nodes), node
            after = next(iter(node.users))
            after = next(iter(after.users)) if after.target is aten.relu.default else after
            assert after.target is QUANTIZE, node
        if node.target is DEQUANTIZE:
            assert len(node.users) == 1
        if node.target in (QUANTIZE, DEQUANTIZE):
            assert node.args[-1] is torch.int8
    (means,) = module.graph.find_nodes(op="call_function", target=aten.mean.dim)
    assert means.args[2] is True


@pytest.mark.parametrize("bits", [{}, {"weight_bits": 4}, {"activation_bits": 6}])
def test_the_rewritten_graph_computes_what_the_simulation_does(bits: dict[str, int]):
    program = quantized(Net(), [images()], **bits)
    found = lowered(program)(images())
    assert sqnr_db(program(images()), found) > 60


def test_a_quantizer_of_a_quantized_value_reads_its_pair():
    program = quantized(Net(), [images()])
    module = program.module
    one = next(iter(module.graph.find_nodes(op="call_function", target=FAKE_QUANTIZE_TENSOR)))
    with module.graph.inserting_after(one):
        other = module.graph.call_function(one.target, (one, one.args[1] * 2, *one.args[2:]))
    other.meta = dict(one.meta)
    one.replace_all_uses_with(other, delete_user_cb=lambda user: user is not other)
    assert not lowered(program).graph.find_nodes(op="call_function", target=FAKE_QUANTIZE_TENSOR)


def test_its_kernels_are_exact_on_every_processor():
    for kind in ("avx2", "vnni", "arm", "any"):
        assert engines.target("executorch", kind).processor == "arm"
        assert mismatch(kind, engines.computes_as("executorch", kind)) is None
    assert engines.computes_as("openvino", "arm") == native()
    heavy = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        heavy.weight.fill_(1.0)  # pairs of 127 overflow where vpmaddubsw is used
    (weight,) = (one for one in quantizers(quantized(heavy, [torch.rand(4, 2)]).module) if one.is_weight)
    assert torch.allclose(weight.scale, torch.tensor(1 / 127))


def test_ranges_at_run_time_are_of_rows():
    layer = nn.Linear(16, 4)
    program = quantized(layer, [torch.randn(3, 16)], "dynamic")
    x = torch.randn(3, 16) * torch.tensor([[1.0], [100.0], [0.01]]) + 0.5
    low, high = x.amin(1, True).clamp(max=0), x.amax(1, True).clamp(min=0)
    scale = (high - low) / 255
    weight = layer.weight.detach()
    step = weight.abs().amax(1, True) / 127
    expected = (x / scale).round() * scale @ ((weight / step).round() * step).T + layer.bias.detach()
    assert torch.allclose(program(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "options", "why"),
    [
        ("weight-only", {}, "integer weights by integers alone"),
        ("static", {"weight_granularity": "per-group"}, "quantized at run time"),
        ("static", {"weight_symmetric": False}, "no zero points"),
        ("dynamic", {"weight_granularity": "per-tensor"}, "one scale of all weights"),
    ],
)
def test_what_xnnpack_has_no_kernels_for_is_refused(method: str, options: dict[str, object], why: str):
    with pytest.raises(InputError, match=why):
        quantized(nn.Linear(64, 4), [torch.randn(4, 64)], method, **options)


def test_it_is_used_only_where_it_is_asked_for():
    assert "executorch" not in engines.installed()
    assert "executorch" in engines.NAMES


# What follows runs on ExecuTorch.


@needs_executorch
@pytest.mark.slow
def test_static_is_the_simulation_on_xnnpack_alone(tmp_path: Path):
    program = quantized(Net(), [images()])
    runner = zp.compile(program, "executorch", threads=1, path=tmp_path / "m")
    assert runner.artefact.name == "m.pte"
    assert_parity(zp.capture(Net(), images()), program, runner, [(images(),), (images(3),)])
    assert len(engines.named("executorch").integer_operators(program, runner.artefact)) == 5
    assert sqnr_db(program(images(7)), runner(images(7))) > 60  # a batch in pieces


@needs_executorch
@pytest.mark.slow
def test_dynamic_is_the_simulation(tmp_path: Path):
    data = [torch.randn(4, 10, 64) * torch.rand(4, 10, 1)]
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
    cases = {
        "bytes": ({}, 100),
        "groups": ({"weight_granularity": "per-group", "weight_bits": 4, "end_bits": 4}, 40),
    }
    for name, (options, least) in cases.items():
        program = quantized(model, data, "dynamic", **options)
        runner = zp.compile(program, "executorch", threads=1, path=tmp_path / name)
        # The scales of groups are of 16 bits in XNNPACK.
        assert sqnr_db(program(data[0]), runner(data[0])) > least


@needs_executorch
@pytest.mark.slow
def test_runners_of_different_threads_take_turns(tmp_path: Path):
    program = zp.capture(Net().eval(), images())
    first, second = (zp.compile(program, "executorch", threads=n, path=tmp_path / str(n)) for n in (1, 2))
    for runner in (first, second, first, second):
        assert sqnr_db(program(images()), runner(images())) > 60


@needs_executorch
@pytest.mark.slow
def test_the_file_tells_what_it_is_and_damage_is_noticed(tmp_path: Path):
    program = quantized(Net(), [images()])
    file = zp.compile(program, "executorch", threads=1, batch_size=4, path=tmp_path / "m").artefact
    assert torch.equal(artefact.load(file, threads=1)(images()), artefact.load(file, threads=1)(x=images()))
    engine = engines.named("executorch")
    assert engine.settings(file)["kernels"] == {"int8": 5, "float": 0}
    assert [tensor.shape for tensor in engine.example_inputs(file, 4) or ()] == [images().shape]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        artefact.load(file)


@needs_executorch
@pytest.mark.slow
def test_an_operator_that_it_lacks_is_named():
    class Sorted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sort(-1).values

    with pytest.raises(InputError, match=r"has no aten\.sort"):
        zp.compile(zp.capture(Sorted(), torch.randn(2, 5)), "executorch")
