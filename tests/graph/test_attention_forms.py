"""Attention of any number of axes, with shared keys, is captured in a form that every engine runs."""

import pytest
import torch
import torch.nn.functional as F
from networks import randomized
from torch import Tensor, nn

import zeropoint as zp
from zeropoint.graph.attention import ATTENTION


class Attention(nn.Module):
    """Heads of 8 from (N, 12, 32); ``axes`` of the query, and keys of ``shared`` heads."""

    def __init__(self, axes: int = 4, shared: int = 4, **options: object) -> None:
        super().__init__()
        self.query, self.keys = nn.Linear(32, 32), nn.Linear(32, 16 * shared)
        self.axes, self.options = axes, {**options, "enable_gqa": shared != 4}

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        query, (key, value) = self.query(x), self.keys(x).chunk(2, -1)
        parts = (query, key, value)
        if self.axes > 3:
            parts = tuple(part.unflatten(-1, (-1, 8)).transpose(1, 2) for part in parts)
        if self.axes > 4:
            parts = tuple(part.unflatten(2, (2, 6)) for part in parts)
        return F.scaled_dot_product_attention(*parts, attn_mask=mask, **self.options)


MASK = torch.rand(12, 12, generator=torch.Generator().manual_seed(1)) < 0.8
CASES = {
    "three axes": (Attention(3), ()),
    "three axes, causal": (Attention(3, is_causal=True), ()),
    "three axes, mask": (Attention(3), (MASK.expand(4, 12, 12),)),
    "five axes": (Attention(5), ()),
    "five axes, mask": (Attention(5), (MASK[:6, :6],)),
    "shared keys": (Attention(shared=2), ()),
    "shared keys, causal": (Attention(shared=1, is_causal=True), ()),
    "shared keys, mask": (Attention(shared=2, scale=0.2), (MASK,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_attention_has_four_axes_and_runs(case: str):
    model, mask = CASES[case]
    x = torch.randn(4, 12, 32, generator=torch.Generator().manual_seed(0))
    program = zp.capture(randomized(model), (x, *mask))
    (attention,) = (node for node in program.module.graph.nodes if node.target is ATTENTION)
    assert len(attention.meta["val"].shape) == 4
    with torch.no_grad():
        expected = model(x, *mask)
    torch.testing.assert_close(program(x, *mask), expected)
    for engine in ("onnxruntime", "openvino"):
        torch.testing.assert_close(zp.compile(program, engine)(x, *mask), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", ["booleans", "offsets"])
def test_a_query_that_sees_no_key_gets_zeros(engine: str, kind: str):
    model = randomized(Attention())
    seen = MASK.clone()
    seen[3] = False
    mask = seen if kind == "booleans" else torch.zeros(12, 12).masked_fill(~seen, -torch.inf)
    x = torch.randn(4, 12, 32, generator=torch.Generator().manual_seed(0))
    program = zp.capture(model, (x, MASK if kind == "booleans" else torch.zeros(12, 12)))
    with torch.no_grad():
        expected = model(x, mask)
    assert not expected[:, :, 3].any()
    found = zp.compile(program, engine)(x, mask)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
