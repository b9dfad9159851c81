import copy
import inspect

import pytest
import torch
from networks import Function, sqnr
from torch import nn
from torch.nn import functional as F

import zeropoint as zp
from zeropoint.errors import InputError
from zeropoint.graph.capture import capture
from zeropoint.graph.operators import aten
from zeropoint.graph.program import flat_tensors


def check(model, *inputs, batch_free=True, tolerance=1e-6):
    """Captures, compares with eager float32 at three batch sizes and for side effects; gives the Program."""
    originals = [tensor.clone() for tensor in inputs]
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    program = capture(model, inputs)
    assert [module.training for module in model.modules()] == modes
    assert program.dynamic_batch is batch_free
    reference = copy.deepcopy(model).eval()
    sizes = (len(inputs[0]), 1, 5) if batch_free else (len(inputs[0]),)
    for size in sizes:
        batch = (
            [tensor[:1].repeat(size, *[1] * (tensor.dim() - 1)) for tensor in inputs]
            if size != len(inputs[0])
            else originals
        )
        kept = [tensor.clone() for tensor in batch]
        with torch.no_grad():
            expected = flat_tensors(reference(*[tensor.clone() for tensor in batch]))
        actual = program.flat(*batch)
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
        assert all(torch.equal(one, other) for one, other in zip(batch, kept, strict=True)), "inputs changed"
    assert all(torch.equal(tensor, originals[i]) for i, tensor in enumerate(inputs)), "example changed"
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items()), "state changed"
    for node in program.module.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            assert not node.target._schema.is_mutable, node.target
    return program


def operators(program):
    return [node.target for node in program.module.graph.nodes if node.op == "call_function"]


def images(batch=2):
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_conv_bn_relu_in_place_and_dropout():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5))
    assert operators(check(model, images())) == [
        aten.conv2d.default,
        aten.batch_norm.default,
        aten.relu.default,
    ]


def test_dropouts_in_place_cost_no_second_trace(monkeypatch: pytest.MonkeyPatch):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5, True), nn.Dropout2d(0.5, True), nn.ReLU(True))
    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", None)
    x = torch.randn(2, 3, 8, 8)
    program = capture(model, x)
    assert operators(program) == [aten.conv2d.default, aten.relu.default]
    assert torch.equal(program(x), model.eval()(x))


def test_dropout_that_is_always_on_stays():
    class AlwaysOn(nn.Module):
        def forward(self, x):
            return F.dropout(F.dropout(x, 0.9, training=False), 0.5, training=True)

    program = capture(AlwaysOn(), torch.ones(1, 1000))
    assert operators(program) == [aten.dropout.default]
    output = program(torch.ones(4, 1000))
    assert output.unique().tolist() == [0.0, 2.0]  # half of the values, doubled: Srivastava et al. 2014


def test_masks_have_the_usual_names():
    class Masked(nn.Module):
        def forward(self, x):
            return x * (((x > 0) & (x < 1)) ^ (x.int() & 1).bool() | (x < -1))

    bitwise = [
        aten.bitwise_and.Tensor,
        aten.bitwise_and.Scalar,
        aten.bitwise_xor.Tensor,
        aten.bitwise_or.Tensor,
    ]
    assert [target for target in operators(check(Masked(), images())) if target in bitwise] == bitwise


def test_relu6_is_hardtanh():
    assert operators(check(nn.Sequential(nn.ReLU6(inplace=True)), images())) == [aten.hardtanh.default]


@pytest.mark.parametrize("settings", [(), (0.2,), (0.1, 0.3)])
def test_a_randomized_leaky_relu_has_its_mean_slope(settings):
    program = check(nn.Sequential(nn.RReLU(*settings)), images())
    lower, upper = (*settings, *(1 / 8, 1 / 3)[len(settings) :])
    assert operators(program) == [aten.leaky_relu.default]
    assert torch.allclose(program(-torch.ones_like(images())), torch.tensor(-(lower + upper) / 2))


class Causal(nn.Module):
    """An encoder and decoder whose mask is made in ``forward``, as in PyTorch's tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)

    def forward(self, source, target):
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.layers(source, target, tgt_mask=mask)


def test_a_transformer_with_a_causal_mask():
    torch.manual_seed(0)
    check(Causal(), torch.randn(2, 5, 16), torch.randn(2, 4, 16))


def residual(parts, x):
    y = parts[0](x)
    y += x
    return torch.relu_(y)


def write_a_slice(_, x):
    x = x * 1
    x[:, 0] = 0
    return x


def write_a_slice_of_the_input(_, x):
    x[:, 0] = 1
    return x + 1


def write_the_input(_, x):
    return x.relu_() + 1


def write_a_view(_, x):
    x = x - 1
    y = x.view(x.shape[0], -1)
    y.relu_()
    return x.sum(1), y


def write_what_a_view_sees(_, x):
    x = x - 1
    y = x.view(x.shape[0], -1)
    x.relu_()
    return y


def write_a_part(_, x):
    y = x + 0
    first, second = y.split([1, 2], 1)
    first.add_(1)
    return torch.cat([first, second], 1) + y


def write_a_reshape(parts, x):
    x = parts[0](x)
    x.reshape(x.shape[0], -1).relu_()
    return x


def write_a_copy(parts, x):
    x = parts[0](x)
    y = x.transpose(1, 2).reshape(x.shape[0], -1)  # here the reshape copies
    y.relu_()
    return x, y


def write_behind_a_dropout(parts, x):
    x = parts[0](x)
    F.dropout(x, 0.5, training=False).relu_()
    return x


def write_twice(_, x):
    x = x + 0
    before = x * 2
    x.clamp_(-1, 1)
    y = F.hardswish(x, inplace=True)
    z = y.add_(x, alpha=2)
    return before, x, y, z.mul_(z)


def write_out(_, x):
    y = x + 1
    torch.add(x, 3, out=y)
    return y


@pytest.mark.parametrize(
    "function",
    [
        residual,
        write_a_slice,
        write_a_slice_of_the_input,
        write_the_input,
        write_a_view,
        write_what_a_view_sees,
        write_a_part,
        write_a_reshape,
        write_a_copy,
        write_behind_a_dropout,
        write_twice,
        write_out,
    ],
)
def test_in_place(function):
    check(Function(function, nn.Conv2d(3, 3, 3, padding=1)), images())


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return x + self.count


def test_buffers_are_not_written():
    model = Counter()
    program = capture(model, images())
    first, second = program(images()), program(images())
    assert model.count == 0
    assert torch.equal(first, second)
    assert torch.equal(first, images() + 1)


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return {"sum": x + y, "parts": (x * 2, [y])}


class Any(nn.Module):
    def forward(self, first, *others):
        return first + sum(others)


def test_several_inputs_and_structured_outputs():
    check(TwoInputs(), images(), images() + 1)
    check(TwoInputs(), images(1), images(1) + 1)
    check(Any(), images(), images() + 1, images() + 2)


def test_batch_fixed_by_the_model():
    program = check(Function(lambda _, x: x.reshape(2, -1)), images(), batch_free=False)
    assert program.module.graph.find_nodes(op="placeholder")[0].meta["val"].shape[0] == 2
    fixed = Function(lambda _, x: x + torch.ones(2, 1, 1, 1))
    check(fixed, images(), batch_free=False)


def test_shared_modules():
    conv = nn.Conv2d(3, 3, 1)
    program = check(nn.Sequential(conv, nn.ReLU(), conv), images())
    assert len(list(program.module.parameters())) == 2


def test_weights_share_storage_with_the_model():
    model = nn.Conv2d(3, 4, 3)
    program = capture(model, images())
    assert program.module.weight.data_ptr() == model.weight.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32_copies(dtype):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(dtype)
    program = capture(model, images().to(dtype))
    assert model[0].weight.dtype == dtype
    expected = copy.deepcopy(model).float().eval()(images().to(dtype).float())
    torch.testing.assert_close(program(images().to(dtype).float()), expected)
    assert program.example_inputs[0].dtype == torch.float32


def test_train_mode_is_kept_and_eval_captured():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    model[1].eval()
    check(model, images())


def test_hooks_run_and_stay():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    model[0].register_forward_hook(lambda module, inputs, output: output * 2)
    check(model, images())
    assert len(model[0]._forward_hooks) == 1


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    "model",
    [
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        Function(lambda parts, x: parts[0](x, x, x)[0], nn.MultiheadAttention(8, 2, batch_first=True)),
    ],
)
def test_attention_is_captured_layer_by_layer(model, frozen):
    model = copy.deepcopy(model).requires_grad_(not frozen)
    program = check(model, torch.randn(2, 3, 8), tolerance=1e-5)
    assert aten.linear.default in operators(program)


def test_recurrent():
    assert aten.lstm.input in operators(
        check(nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True), torch.randn(2, 3, 4))
    )
    assert aten.gru.input in operators(check(nn.GRU(4, 5, batch_first=True), torch.randn(1, 3, 4)))


def test_embedding():
    check(nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3)), torch.randint(0, 7, (2, 5)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_torchvision(name):
    from zeropoint.models.vision import torchvision

    torch.manual_seed(0)
    model = getattr(torchvision().models, name)(weights=None).eval()
    check(model, torch.randn(2, 3, 32, 32), tolerance=1e-4)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        x = self.conv(x)
        if x.sum() > 0:
            return x
        return x * 2


def test_what_cannot_be_exported_is_told_with_its_line(capfd):
    model = Branches().train()
    with pytest.raises(InputError) as caught:
        capture(model, images())
    lines, first = inspect.getsourcelines(Branches.forward)
    line = first + next(i for i, text in enumerate(lines) if "if x.sum()" in text)
    message = str(caught.value)
    assert f"{__file__}:{line}" in message
    assert "operator aten.item" in message
    assert "\n" not in message
    assert model.training
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "inputs", [torch.randn(2, 4, 8, 8), (images(), images()), torch.zeros(2, 3, 8, 8).int()]
)
def test_inputs_on_which_the_model_fails(inputs):
    model = nn.Sequential(nn.Conv2d(3, 4, 3)).train()
    with pytest.raises(
        InputError, match=r"the model fails on inputs of shape|does not fit the model's forward: too many"
    ) as caught:
        capture(model, inputs)
    assert "\n" not in str(caught.value)
    assert model.training


@pytest.mark.parametrize("inputs", [(), "image", [1, 2]])
def test_what_is_no_input(inputs):
    with pytest.raises(InputError, match="example inputs must be"):
        capture(nn.ReLU(), inputs)


class Returning(nn.Module):
    """A model that gives back ``what``."""

    def __init__(self, what) -> None:
        super().__init__()
        self.layer, self.what = nn.Linear(3, 2), what

    def forward(self, x):
        """What was asked for."""
        return self.what(self.layer(x))


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (
            lambda: torch.relu,
            torch.randn(2, 3),
            "the model is a builtin_function_or_method; give an nn.Module",
        ),
        (lambda: nn.Linear(3, 2, device="meta"), torch.randn(2, 3), "on the meta device"),
        (lambda: torch.jit.script(nn.Linear(3, 2)), torch.randn(2, 3), "TorchScript"),
        (lambda: nn.Linear(3, 2), torch.randn(0, 3), "example input 1 is empty"),
        (lambda: Returning(lambda _: None), torch.randn(2, 3), "returns NoneType without a tensor"),
        (lambda: Returning(lambda y: y * float("nan")), torch.randn(2, 3), "NaN on the example"),
    ],
)
def test_what_cannot_be_captured_is_one_line(model, example, message):
    with pytest.raises(InputError, match=message) as caught:
        capture(model(), example)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrapped_modules_are_unwrapped(wrap):
    model, x = nn.Sequential(nn.Linear(3, 2), nn.ReLU()).eval(), torch.randn(2, 3)
    torch.testing.assert_close(capture(wrap(model), x)(x), model(x))


def test_an_empty_cache_is_put_together_with_nothing():
    def grown(_, x):
        return torch.cat([torch.zeros(0), x, x[:, :1]], 1), torch.cat([torch.tensor([]), x], -1)

    program = check(Function(grown), torch.randn(2, 3, 4))
    (cat,) = program.module.graph.find_nodes(op="call_function", target=aten.cat.default)
    assert len(cat.args[0]) == 2
    assert not program.module.graph.find_nodes(op="get_attr")


CONVERSIONS = {
    "device": lambda layer, x: layer.to(x.device),
    "dtype": lambda layer, x: layer.to(x.dtype),
    "float": lambda layer, x: layer.float(),
    "cpu": lambda layer, x: layer.cpu(),
    "like": lambda layer, x: layer.to(x),
}


@pytest.mark.parametrize("kind", CONVERSIONS)
def test_a_module_converted_to_what_it_is(kind):
    class Converted(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x):
            self.layer = CONVERSIONS[kind](self.layer, x)
            return self.layer(x)

    assert operators(check(Converted(), torch.randn(2, 5))) == [aten.linear.default]


@pytest.mark.parametrize(
    ("layer", "padding"),
    [
        (nn.Conv1d(3, 4, 5, padding="same"), [2]),
        (nn.Conv2d(3, 4, (3, 5), padding="same", dilation=(2, 1), bias=False), [2, 2]),
        (nn.Conv2d(3, 3, 1, padding="same", groups=3), [0, 0]),
        (nn.Conv3d(3, 4, 3, padding="valid", stride=2), [0, 0, 0]),
        (nn.Conv2d(3, 4, (2, 3), padding="same"), "same"),  # one more on one side
    ],
)
def test_padding_is_given_in_numbers(layer, padding):
    program = check(layer, torch.randn(2, 3, *[8] * (layer.weight.dim() - 2)))
    (convolution,) = [node for node in program.module.graph.nodes if node.op == "call_function"]
    assert convolution.args[4] == padding
    assert (convolution.target._overloadname == "padding") == (padding == "same")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_view_of_what_a_recurrent_layer_gives_batch_first(kind):
    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = kind(5, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x):
            steps, _ = self.layer(x)
            return self.head(steps.contiguous().view(-1, 6)).view(x.shape[0], x.shape[1], 2)

    check(Viewed(), torch.randn(3, 7, 5))


UNBATCHED = {
    "a vector": (lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)), (16,)),
    "an image": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), (3, 9, 9)),
    "a signal": (lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3)), (3, 16)),
    "a small image": (lambda: nn.ConvTranspose2d(3, 4, 2, 2), (3, 5, 5)),
}


@pytest.mark.parametrize("method", ["static", "dynamic", "weight-only"])
@pytest.mark.parametrize("name", UNBATCHED)
def test_one_item_without_a_batch(name: str, method: str):
    make, shape = UNBATCHED[name]
    model, data = make().eval(), [torch.randn(shape) for _ in range(9)]
    program = zp.capture(model, data[0])
    assert torch.allclose(program(data[8]), model(data[8]), atol=1e-6)
    quantized = zp.quantize(program, method, calibration=data[:8], target="onnxruntime")
    found = zp.compile(quantized, "onnxruntime", threads=1)(data[8])
    assert found.shape == model(data[8]).shape
    assert sqnr(model(data[8]).detach(), found) > 30
    assert sqnr(quantized(data[8]), found) > 40
