import copy

import pytest
import torch
from networks import Function, bf16, images, randomized, residual, sqnr
from torch import nn

from zeropoint.engines import compile, unsupported
from zeropoint.errors import InputError
from zeropoint.graph.capture import capture
from zeropoint.passes.fold import fold_affine
from zeropoint.targets.options import Options


def test_linear_is_torchs_own_bfloat16():
    model = randomized(nn.Linear(4, 3))
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    program = bf16(capture(model, x))
    expected = copy.deepcopy(model).bfloat16()(x.bfloat16()).float()
    assert torch.equal(program(x), expected)
    assert program(x).dtype == torch.float32
    assert (program.method, program.weight_bits, program.activation_bits) == ("bf16", 16, 16)


def test_every_weight_is_half_the_size_and_the_given_program_is_left_alone():
    program = residual()
    narrow = bf16(program)
    assert {tensor.dtype for tensor in narrow.module.state_dict().values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in program.module.parameters()} == {torch.float32}
    assert narrow.module.state_dict().keys() == fold_affine(program).module.state_dict().keys()
    assert 30 < sqnr(program(images()), narrow(images())) < 70


def test_patterns():
    with pytest.raises(InputError, match="did you mean stem"):
        bf16(residual(), Options(skip=("stm",)))
    apart = bf16(residual(), Options(no_fuse=("norm",)))
    assert "norm.weight" in apart.module.state_dict().keys() - bf16(residual()).module.state_dict().keys()


class Casts(nn.Module):
    """Says float32 in every way, and makes constants of the default type."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x, ids):
        x = x.float() + torch.zeros(4) + torch.ones(4, dtype=torch.float32)
        x = x.to(torch.float32) * ids.to(torch.float32) + ids.float().unsqueeze(0)
        return self.head(x).float(), ids


def test_casts_and_constants_inside_the_model():
    x, ids = torch.randn(4, 4), torch.tensor([[1], [2], [3], [0]])
    program = capture(randomized(Casts()), (x, ids.expand(4, 4).contiguous()))
    out, same = bf16(program)(*program.example_inputs)
    assert out.dtype == torch.float32
    assert torch.equal(same, program.example_inputs[1])
    assert sqnr(program(*program.example_inputs)[0], out) > 30


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (nn.LSTM(4, 5, batch_first=True), torch.randn(2, 3, 4)),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.randn(2, 3, 8)),
        (nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 2)), torch.tensor([[1, 2]])),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Hardswish(), nn.AdaptiveAvgPool2d(1)),
            images(),
        ),
    ],
)
def test_all_sorts_of_layers(model, x):
    program = capture(randomized(model), x)
    outputs = bf16(program).flat(x)
    assert {output.dtype for output in outputs} == {torch.float32}
    assert sqnr(program.flat(x)[0], outputs[0]) > 25


WIDE = {
    "weights in channels last": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).to(
        memory_format=torch.channels_last
    ),
    "slopes": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 4, 3)),
    "circular padding": lambda: nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"),
    "the least float32": lambda: Function(
        lambda _, x: x.masked_fill(x > 0, torch.finfo(torch.float32).min).softmax(1)
    ),
    "distances": lambda: Function(lambda _, x: torch.cdist(x.flatten(2), x.flatten(2) * 0.5)),
    "a spectrum": lambda: Function(lambda _, x: torch.fft.rfft(x).abs()),
}


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", WIDE)
def test_what_needs_care_in_bfloat16(name: str, engine: str):
    torch.manual_seed(0)
    model, x = WIDE[name]().eval(), torch.randn(2, 3, 8, 8)
    program = bf16(capture(model, x))
    with torch.no_grad():
        expected = model(x)
    assert sqnr(expected, program(x)) > 35
    if (name, engine) == ("a spectrum", "openvino") or unsupported(engine, "bf16", program):
        return
    assert sqnr(expected, compile(program, engine, threads=1)(x)) > 35
