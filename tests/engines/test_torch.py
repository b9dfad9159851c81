"""The PyTorch compiler really calls oneDNN's integer kernels: seen in the code that it writes."""

import re
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from mixed import ManyOutputs, assert_parity, batches, noise_db
from networks import randomized, sqnr
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from zeropoint.engines import Runner, compile
from zeropoint.engines.qdq import to_pairs
from zeropoint.engines.torch import lowering, run, unsupported
from zeropoint.engines.torch.rewrites import move_integers
from zeropoint.errors import InputError
from zeropoint.graph import edits as fx
from zeropoint.graph.capture import capture
from zeropoint.graph.operators import aten
from zeropoint.graph.program import Program, flat_tensors
from zeropoint.graph.quantizers import quantizers
from zeropoint.measure.integers import Integers, integers
from zeropoint.quantization import quantize
from zeropoint.targets.options import Options
from zeropoint.torch_private.pairs import pairs


def kernels(program: Program, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], Runner]:
    """The oneDNN kernels that the compiled code calls, which is left out of the package, and its Runner."""
    code, repack = [], lowering.repack

    def spy(source: Path, *arguments: object, **options: object) -> None:
        with zipfile.ZipFile(source) as archive:
            code.extend(
                archive.read(name).decode() for name in archive.namelist() if name.endswith("wrapper.cpp")
            )
        repack(source, *arguments, **options)

    monkeypatch.setattr(lowering, "repack", spy)
    # Of one image and at most 16 by 16 weights, the compiler rather writes a loop of its own.
    runner = compile(program, "torch", threads=1, batch_size=3)
    with zipfile.ZipFile(runner.artefact) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".cpp")]
        (library,) = (name for name in archive.namelist() if name.endswith(".so"))
        names = archive.read(library)
        assert b"\0valloc\0" in names
        assert b"\0malloc\0" not in names
    return re.findall(r"aoti_torch_cpu_+(qconv|qlinear|mkldnn)\w*\(", code[0]), runner


@pytest.mark.slow
def test_static_calls_integer_convolutions_and_products_and_is_at_parity(
    float32, data: list[Tensor], monkeypatch
):
    # Fitted, this network is so near to float that one value in the middle of a coarse step tells.
    options = Options(rounding="nearest")
    program = quantize(float32, "static", calibration=data, target="torch", options=options)
    called, runner = kernels(program, monkeypatch)
    assert Counter(called) == {"qconv": 7, "qlinear": 1}
    assert_parity(float32, program, runner, [(batch,) for batch in (*data, data[0][:3], data[0][:1])])


class Pooled(nn.Module):
    """Poolings by maximum: one between layers, two in a row with padding, and one that is read as floats."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = max_pool2d(self.first(x), 2)
        y = max_pool2d(max_pool2d(self.second(x), 3, 1, 1), 3, 2, 1)
        return self.last(y), max_pool2d(torch.sin(y), 2)


def test_pooling_is_of_integers_and_quantized_once():
    data = batches()
    program = capture(randomized(Pooled()), data[0])
    quantized = quantize(program, calibration=data, target="torch")
    before = to_pairs(quantized)
    after = move_integers(to_pairs(quantized))
    for batch in (data[0], data[1] * 3, -data[2].abs()):
        for expected, found in zip(flat_tensors(before(batch)), flat_tensors(after(batch)), strict=True):
            assert torch.equal(found, expected)
    quantize_node, dequantize_node = pairs.quantize_per_tensor.default, pairs.dequantize_per_tensor.default
    pools = [node for node in after.graph.nodes if node.target is aten.max_pool2d.default]
    assert len(pools) == 4
    for pool in pools[:3]:
        assert pool.args[0].target in (quantize_node, aten.max_pool2d.default)
        assert {user.target for user in pool.users} <= {dequantize_node, aten.max_pool2d.default}
        floats = [user for user in pool.users if user.target is dequantize_node]
        assert all(one.meta["val"].shape == pool.meta["val"].shape for one in floats)
        again = [user for behind in pool.users for user in behind.users if user.target is quantize_node]
        assert not again
    assert pools[3].args[0].target is aten.sin.default


@pytest.mark.slow
def test_compiled_pooling_of_integers_is_at_parity():
    data = batches()
    program = capture(randomized(Pooled()), data[0])
    quantized = quantize(program, calibration=data, target="torch")
    runner = compile(quantized, "torch", threads=1, batch_size=3)
    for batch in (data[0], -data[1].abs()):  # padding must not count, however low all values are
        expected, simulated, found = program(batch), quantized(batch), runner(batch)
        assert noise_db(expected, found) >= noise_db(expected, simulated) - 0.5


class Turned(nn.Module):
    """Two branches whose channels are joined, turned and split."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(3, 4, 3) for _ in range(2))
        self.left, self.right = (nn.Conv2d(4, 4, 1) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat([self.first(x).relu(), self.second(x)], 1)
        left, right = joined.transpose(2, 3).chunk(2, 1)
        return self.left(left), self.right(right)


def test_channels_are_joined_turned_and_split_as_integers():
    data = batches()
    program = capture(randomized(Turned()), data[0])
    before = to_pairs(quantize(program, calibration=data, target="torch"))
    moves = {aten.cat.default, aten.transpose.int, aten.chunk.default}
    after = move_integers(fx.copy(before))
    for batch in (data[0], data[1] * 3):
        for expected, found in zip(flat_tensors(before(batch)), flat_tensors(after(batch)), strict=True):
            assert torch.equal(found, expected)
    types = {}

    class Types(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> object:
            value = super().run_node(node)
            types[node.target] = flat_tensors(value)[0].dtype
            return value

    Types(after).run(data[0])
    assert {types[target] for target in moves} == {torch.uint8}


class Residuals(nn.Module):
    """Linear layers whose outputs are added: to a constant, to what they read, to themselves, to a number."""

    def __init__(self) -> None:
        super().__init__()
        self.zeroth, self.first, self.second, self.third = (nn.Linear(32, 32) for _ in range(4))
        self.position = nn.Parameter(torch.randn(1, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.zeroth(x) + self.position
        x = x + self.first(x).relu()
        x = nn.functional.gelu(self.second(x)) + x
        positive = self.third(x).relu()
        return positive + positive + (positive + 1)


@pytest.mark.slow
def test_sums_with_linear_layers_run_in_integers_and_leave_constants_alone():
    data = [torch.randn(8, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    program = capture(randomized(Residuals()), data[0])
    quantized = quantize(program, calibration=data, target="torch")
    runner = compile(quantized, "torch", threads=1, batch_size=1)  # the size of the constant
    assert integers(quantized, runner).share == 1
    expected, simulated, found = program(data[0]), quantized(data[0]), runner(data[0])  # eight calls
    assert noise_db(expected, found) >= noise_db(expected, simulated) - 0.5


class Viewed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu()).view(x.shape[0], -1, 8).softmax(-1)


@pytest.mark.slow
def test_a_view_of_a_convolution_with_padding_by_name():
    data = batches()
    quantized = quantize(capture(randomized(Viewed()), data[0]), calibration=data, target="torch")
    runner = compile(quantized, "torch", threads=1, batch_size=3)
    assert integers(quantized, runner).share == 1
    assert sqnr(quantized(data[0]), runner(data[0])) > 40


class Moved(nn.Module):
    """A convolution that is added to a part of a value, or to tokens laid out as an image."""

    def __init__(self, tokens: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.mix, self.last, self.tokens = nn.Linear(16, 8), nn.Conv2d(8, 4, 1), tokens

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.tokens:
            x = self.mix(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(-1, 8, 8, 8)
            return self.last(self.second(nn.functional.gelu(x)) + x)
        x = x.sigmoid()[:, :8]
        return self.last(self.second(x.relu()) + x)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [False, True])
def test_a_convolution_is_added_to_what_was_moved(tokens: bool):
    data = [torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    quantized = quantize(capture(randomized(Moved(tokens)), data[0]), calibration=data, target="torch")
    runner = compile(quantized, "torch", threads=1, batch_size=4)
    assert integers(quantized, runner).share == 1
    assert sqnr(quantized(data[0]), runner(data[0])) > 40


class LastStep(nn.Module):
    """Reads a recurrent layer whose output lies step by step, though items are its first axis."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(8, 8, batch_first=True), nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.gru(self.lstm(x)[0])
        return self.head(steps[:, -1])


@pytest.mark.slow
def test_recurrent_layers_with_several_items_first():
    data = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
    program = quantize(capture(randomized(LastStep()), data), "dynamic", target="torch")
    runner = compile(program, "torch", threads=1, batch_size=4)
    assert sqnr(program(data), runner(data)) > 60


class Alike(nn.Module):
    """Two layers of one shape, of which only the second reads negative values, and one between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (
            nn.Conv2d(96, 576, 1),
            nn.Conv2d(576, 96, 1),
            nn.Conv2d(96, 576, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x.relu()).relu()))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["static", "bf16"])
def test_weights_are_laid_out_once(method: str, capfd: pytest.CaptureFixture[str]):
    if reason := unsupported(method):
        pytest.skip(reason)
    data = [torch.randn(1, 96, 14, 14, generator=torch.Generator().manual_seed(0))]
    program = capture(randomized(Alike()), data[0])
    quantized = quantize(program, method, calibration=data if method == "static" else None, target="torch")
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):  # the second must not find layouts that are meant for the first
            torch.set_num_threads(2)
            runner = compile(quantized, "torch", threads=threads)
            capfd.readouterr()
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                found = runner(*data)
            calls = [line for line in capfd.readouterr().out.splitlines() if ",exec," in line]
            assert sum(",convolution," in call for call in calls) == 3
            assert not [call for call in calls if ",reorder," in call]
            assert noise_db(program(*data), found) > 25
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_dynamic_calls_integer_products_and_is_no_further_from_float32(monkeypatch: pytest.MonkeyPatch):
    # What ReLU gives is pooled: a range chosen at run time has to hold zero, and those values do not.
    program = capture(randomized(ManyOutputs()), batches()[0])
    quantized = quantize(program, "dynamic", target="torch")
    called, runner = kernels(quantized, monkeypatch)
    assert [name for name in called if name.startswith("q")] == ["qlinear"] * 2
    assert integers(quantized, runner).fallbacks == ()
    for batch in batches():
        simulated, computed = (noise_db(program(batch), run(batch)) for run in (quantized, runner))
        assert computed >= simulated - 1.0  # of few values, each may fall on the other side of a rounding


def test_float32_is_saved_as_it_is(float32: Program, data: list[Tensor]):
    artefact = compile(float32, "torch").artefact
    assert torch.equal(torch.export.load(artefact).module()(data[0]), float32(data[0]))


def test_threads_are_set_for_every_call(float32: Program, data: list[Tensor]):
    before = torch.get_num_threads()
    try:
        one, two = compile(float32, "torch", threads=1), compile(float32, "torch", threads=2)
        for runner in (one, two, one):
            runner(data[0])
            assert torch.get_num_threads() == runner.threads
    finally:
        torch.set_num_threads(before)


def test_compiler_that_is_not_there_is_named(float32, data: list[Tensor], monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise torch._inductor.exc.InvalidCxxCompiler

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    with pytest.raises(InputError, match="needs a C\\+\\+ compiler to quantize; install g\\+\\+"):
        compile(quantize(float32, "dynamic"), "torch")


class Token(nn.Module):
    """A token of the model's own before those of the input, as in a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.linspace(-1, 0.5, 8).reshape(1, 1, 8))
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1))


@pytest.mark.slow
def test_a_token_of_the_model_may_be_affine():
    x = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))
    program = quantize(capture(Token().eval(), x), calibration=[x], target="torch")
    of_token = [q for q in quantizers(program.module) if q.is_weight and q.source.target == "token"]
    assert of_token
    assert all(q.zero_point.any() for q in of_token)
    found = compile(program, "torch", threads=1, batch_size=4)(x)
    torch.testing.assert_close(found, program(x), rtol=0, atol=0.02)


class SharedAndFlattened(nn.Module):
    """Two layers that all levels share, one whose tokens become items, and one over four axes, turned."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.wide = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 32)
        self.narrow, self.heads = nn.Linear(32, 8), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        levels = [torch.relu(self.conv(level)) for level in (x, max_pool2d(x, 2))]
        tokens = [self.wide(torch.relu(level)).relu() for level in (y.flatten(2).mT for y in levels)]
        items = torch.softmax(self.narrow(tokens[0]).flatten(0, 1), -1)
        heads = self.heads(torch.sin(tokens[1]).unflatten(2, (2, 16)).transpose(1, 2))
        return items, heads, tokens[1]


@pytest.mark.slow
def test_layers_that_share_a_weight_or_are_flattened_are_integer_kernels():
    torch.manual_seed(0)
    network, x = SharedAndFlattened().eval(), torch.randn(3, 8, 16, 16)
    program = capture(network, x)
    quantized = quantize(program, calibration=[torch.randn_like(x) for _ in range(4)], target="torch")
    runner = compile(quantized, "torch", threads=1, batch_size=3)
    assert integers(quantized, runner) == Integers(1.0, ())
    for found, wanted in zip(flat_tensors(runner(x)), flat_tensors(quantized(x)), strict=True):
        assert sqnr(wanted, found) > 40


@pytest.mark.slow
def test_a_weight_that_layers_share_is_stored_once():
    class Repeated(nn.Module):
        def __init__(self, times: int) -> None:
            super().__init__()
            self.layer, self.times = nn.Linear(512, 512), times

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(self.times):
                x = torch.relu(self.layer(x))
            return x

    x, sizes = torch.randn(2, 512), []
    for times in (1, 4):
        program = capture(Repeated(times).eval(), x)
        quantized = quantize(program, calibration=[x], target="torch", options=Options(rounding="nearest"))
        runner = compile(quantized, "torch", threads=1)
        assert integers(quantized, runner).share == 1
        sizes.append(runner.artefact.stat().st_size)
    assert sizes[1] - sizes[0] < 512 * 512 / 4  # bytes of the weight, which packages do not compress


@pytest.mark.slow
def test_a_layer_whose_scales_no_kernel_reads_is_not_counted():
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)).eval(), torch.randn(4, 16)
    quantized = quantize(capture(network, x), calibration=[x], target="torch")
    kernels = compile(quantized, "torch", threads=1, batch_size=4).artefact
    assert run.integer_operators(quantized, kernels) == {"linear", "linear_1"}
    other = quantize(
        capture(nn.Sequential(*network, nn.Linear(8, 8)).eval(), x), calibration=[x], target="torch"
    )
    assert run.integer_operators(other, kernels) == {"linear", "linear_1"}
