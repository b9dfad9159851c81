"""Positions that a mask hides do not count where outputs are judged."""

import pytest
import torch
from torch import nn

import zeropoint as zp
from zeropoint.graph.hidden import visible, without_hidden
from zeropoint.graph.quantizers import quantizers
from zeropoint.methods.losses import matching
from zeropoint.numerics.sqnr import sqnr_db
from zeropoint.passes.sensitivity import sensitivities

MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])
OUTPUT = torch.arange(12.0).reshape(2, 3, 2) + 1


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("attention_mask", MASK),
        ("decoder_attention_mask", MASK),
        ("src_key_padding_mask", MASK == 0),
    ],
)
def test_outputs_are_zero_where_nobody_reads_them(name, mask):
    ids, first = torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 4)
    tokens, pooled = without_hidden(("input_ids", name), (ids, mask), (OUTPUT, first))
    assert torch.equal(tokens, OUTPUT * MASK[:, :, None])
    assert torch.equal(pooled, first)  # not of positions


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("mask", MASK),
        ("attention_mask", MASK.float()),
        ("attention_mask", MASK.reshape(2, 1, 3)),
        (None, MASK),
    ],
)
def test_other_inputs_hide_nothing(name, mask):
    names = () if name is None else (name,)
    assert torch.equal(without_hidden(names, (mask,), (OUTPUT,))[0], OUTPUT)


class Tagger(nn.Module):
    """What it gives at padded positions is a thousand times as large."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x, attention_mask):
        size = torch.where(attention_mask.bool(), 1.0, 1000.0)[:, :, None]
        return self.head(torch.tanh(self.body(x))) * size


def test_noise_and_fidelity_are_of_what_is_shown():
    model = Tagger().eval()
    x = torch.randn(16, 3, 4, generator=torch.Generator().manual_seed(1))
    mask = MASK.repeat(8, 1)
    program = zp.capture(model, (x, mask))
    data = [{"x": x, "attention_mask": mask}]
    (name,) = [node.name for node in program.module.graph.nodes if node.name.startswith("tanh")]
    batches = [program.signature.flat((), data[0])]
    found = sensitivities(program, {name: 2}, batches, items=16)[name].sum()
    shown = zp.capture(model, (x, torch.ones_like(mask)))
    short = [(x[mask.bool()].reshape(-1, 1, 4).expand(-1, 3, 4), torch.ones(24, 3, dtype=torch.long))]
    alone = sensitivities(shown, {name: 2}, short, items=24)[name].sum()
    assert found == pytest.approx(alone.item(), rel=0.5)

    class Off(Tagger):
        def forward(self, x, attention_mask):
            return super().forward(x, attention_mask) + 5.0 * (attention_mask == 0)[:, :, None]

    fidelity = zp.evaluate(zp.capture(Off().eval(), (x, mask)), data, float32=program).fidelity
    assert fidelity.sqnr_db == float("inf")


def test_training_towards_the_teacher_is_at_positions_that_are_shown():
    model, off = Tagger().eval(), Tagger().eval()
    x, mask = torch.randn(2, 3, 4), MASK
    program = zp.capture(model, (x, mask))
    loss = matching(program.module, program.signature.input_names)
    outputs = off(x, mask) + 5.0 * (mask == 0)[:, :, None]
    assert loss((x, mask), (outputs,), None) < 1e-10
    assert matching(program.module)((x, mask), (outputs,), None) > 1e-6


def test_a_diagnosis_is_of_positions_that_are_shown():
    model = Tagger().eval()
    x = torch.randn(16, 3, 4, generator=torch.Generator().manual_seed(1))
    mask = MASK.repeat(8, 1)
    data = [{"x": x, "attention_mask": mask}]
    quantized = zp.quantize(zp.capture(model, (x, mask)), calibration=data, options=zp.Options(weight_bits=4))
    found = zp.diagnose(quantized, data, items=16)
    with torch.no_grad():
        shown = mask.bool()
        expected = sqnr_db(model(x, mask)[shown], quantized(x, mask)[shown])
    assert found.sqnr_db == pytest.approx(expected, abs=0.2)


def test_visible_positions_by_hand():
    shown = MASK == 1
    assert torch.equal(visible(OUTPUT, shown), torch.stack([OUTPUT[0, 0], OUTPUT[0, 1], OUTPUT[1, 0]]))
    heads = OUTPUT.unsqueeze(1)
    for other in (heads, OUTPUT[:, :, 0], OUTPUT[:1]):  # not of positions
        assert visible(other, shown) is other
    assert visible(OUTPUT, None) is OUTPUT


class Tokens(nn.Module):
    """Tokens, of which padding is far off, a layer that reads them, and one that reads its output."""

    def __init__(self):
        super().__init__()
        self.table, self.one, self.two = nn.Embedding(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        with torch.no_grad():
            self.table.weight.copy_(torch.tensor([[1e3], [1.0], [-0.5]]).expand(3, 4))

    def forward(self, input_ids, attention_mask):
        return self.two(torch.relu(self.one(self.table(input_ids)))) * attention_mask[:, :, None]


@pytest.mark.parametrize("masks", [[MASK, MASK], [MASK, torch.zeros_like(MASK)]])
def test_padding_needs_no_range(masks):
    ids = torch.tensor([[1, 2, 0], [2, 0, 0]])
    batches = [{"input_ids": ids, "attention_mask": mask} for mask in masks]
    program = zp.capture(Tokens().eval(), batches[0])
    quantized = zp.quantize(program, calibration=batches, options=zp.Options(processor="vnni"))
    first = min(
        one.scale.item()
        for one in quantizers(quantized.module)
        if not one.is_weight and one.source.name == "embedding"
    )
    assert first == pytest.approx(1.5 / 255, rel=0.05)
    assert sqnr_db(program(**batches[0]), quantized(**batches[0])) > 30
