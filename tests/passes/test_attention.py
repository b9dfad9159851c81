"""Attention taken apart computes what ATen's own does, and is quantized at its products."""

import functools

import pytest
import torch
from mixed import Transformer, batches, noise_db
from networks import options, randomized, static
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from zeropoint import engines
from zeropoint.graph.capture import capture
from zeropoint.graph.operators import aten
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import quantizers
from zeropoint.passes.attention import decompose_attention

FUSED = aten.scaled_dot_product_attention.default


class Attention(nn.Module):
    """Attention of the given arguments, in float64 or as the inputs are."""

    def __init__(self, dtype: torch.dtype = torch.float32, **arguments: object) -> None:
        super().__init__()
        self.dtype, self.arguments = dtype, arguments

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        arguments = dict(self.arguments)
        kind = arguments.pop("mask", None)
        if kind:
            arguments["attn_mask"] = mask > 0 if kind == "bool" else mask.to(self.dtype)
        return scaled_dot_product_attention(*(part.to(self.dtype) for part in (q, k, v)), **arguments)


def inputs(seed: int = 0, heads: int = 4) -> tuple[Tensor, ...]:
    """Queries of another number than the keys, and values of another size."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 4, 5, 8), (2, heads, 7, 8), (2, heads, 7, 6), (2, 1, 5, 7)]
    *parts, mask = (torch.randn(shape, generator=generator) for shape in shapes)
    mask[..., 0] = 1.0  # every query sees a key
    return (*parts, mask)


def targets(program: Program) -> list[object]:
    return [node.target for node in program.module.graph.nodes]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"mask": "float"}, {"mask": "bool"}, {"scale": 0.0}, {"scale": 0.3}, {"scale": 2, "mask": "float"}],
)
def test_the_same_in_float64(arguments: dict[str, object]):
    model = Attention(torch.float64, **arguments)
    apart = decompose_attention(capture(model, inputs()))
    assert FUSED not in targets(apart)
    assert targets(apart).count(aten.matmul.default) == 2
    expected = model(*inputs(1))
    assert expected.dtype == torch.float64
    torch.testing.assert_close(apart(*inputs(1)), expected, rtol=1e-6, atol=1e-6)
    for node in apart.module.graph.nodes:  # placement reads shapes and dtypes there
        of_booleans = node.target in (aten.gt.Scalar, aten.any.dim)
        assert node.op == "output" or of_booleans or node.meta["val"].is_floating_point()


def test_causal_attention_stays():
    program = capture(Attention(is_causal=True), inputs())
    apart = decompose_attention(program)
    assert targets(apart) == targets(program)
    assert FUSED in targets(apart)
    assert torch.equal(apart(*inputs(1)), program(*inputs(1)))


def test_attention_with_shared_keys_is_taken_apart():
    program = capture(Attention(enable_gqa=True), inputs(heads=2))
    apart = decompose_attention(program)
    assert FUSED not in targets(apart)
    torch.testing.assert_close(apart(*inputs(1, 2)), program(*inputs(1, 2)), rtol=1e-6, atol=1e-6)


class Windowed(nn.Module):
    """Attention under a mask of the model's own, in which a position sees those at most so far away."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[-2])
        near = (positions[:, None] - positions).abs() <= self.width
        mask = near.expand(x.shape[0], 1, -1, -1)
        return scaled_dot_product_attention(x, x, x, attn_mask=mask)


@pytest.mark.parametrize(("width", "is_added"), [(4, False), (3, True), (0, True)])
def test_a_mask_that_hides_nothing_goes(width: int, is_added: bool):
    queries, other = (inputs(seed)[0] for seed in (0, 1))  # of 5 positions
    apart = decompose_attention(capture(Windowed(width), (queries,)))
    assert (aten.add.Tensor in targets(apart)) == is_added
    assert aten.softmax.int in targets(apart)
    torch.testing.assert_close(apart(other), Windowed(width)(other))
    torch.testing.assert_close(apart(other[:1]), Windowed(width)(other[:1]))


@functools.cache
def transformer() -> Program:
    return capture(randomized(Transformer()), batches(5, 8)[0][:1])


def test_the_products_of_a_transformer_are_quantized_for_openvino():
    data = batches(5, 8)
    program = transformer()
    quantized = static(program, engines.target("openvino", "vnni"), data, options())
    found = {quantizer.node: quantizer for quantizer in quantizers(quantized.module)}
    scores, context = (node for node in quantized.module.graph.nodes if node.target is aten.matmul.default)
    query, key_moved = (found.get(operand) for operand in scores.args)
    weights, value = (found.get(operand) for operand in context.args)
    for operand in (query, key_moved, value):
        assert operand.scheme.signed
        assert operand.scheme.symmetric
        assert operand.zero_point.item() == 0
    assert weights.source.target is aten.softmax.int
    assert not weights.scheme.signed
    assert 0 < weights.scale.item() <= 1 / 255
    assert weights.zero_point.item() == 0
    # Of the sums, which layer norms read, none is quantized; nor are the scores.
    additions = [node for node in quantized.module.graph.nodes if node.target is aten.add.Tensor]
    assert len(additions) == 2
    assert not any(operand in found for node in additions for operand in node.args)
    assert FUSED not in targets(quantized)
    held_out = batches(5, 8, count=4)[-1]
    assert noise_db(program(held_out), quantized(held_out)) > 30


def test_other_targets_leave_attention_whole():
    data = batches(5, 8)
    program = transformer()
    for engine in ("onnxruntime", "torch"):
        assert FUSED in targets(static(program, engines.target(engine), data, options()))


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_query_that_sees_no_key_gets_zeros(kind):
    class Masked(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
            shown = mask > 0
            hidden = shown if kind == "bool" else torch.zeros_like(mask).masked_fill(~shown, -torch.inf)
            return scaled_dot_product_attention(q, k, v, hidden)

    *parts, mask = inputs()
    mask[0, :, 2] = -1.0
    program = decompose_attention(capture(Masked(), (*parts, mask)))
    assert FUSED not in targets(program)
    expected = Masked()(*parts, mask)
    assert not expected[0, :, 2].any()
    torch.testing.assert_close(program(*parts, mask), expected, rtol=1e-5, atol=1e-5)


def test_a_view_of_what_attention_gives_is_put_right():
    class Block(nn.Module):
        """A view of the heads, which only the layout of fused attention allows."""

        def forward(self, x: Tensor) -> Tensor:
            q = x.view(2, 12, 4, 8).transpose(1, 2)
            y = scaled_dot_product_attention(q, q, q).transpose(1, 2)
            return y.contiguous().view(2, 12, 32)

    x = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(0))
    program = decompose_attention(capture(Block(), x))
    assert FUSED not in targets(program)
    torch.testing.assert_close(program(x), Block()(x), rtol=1e-5, atol=1e-5)
    runner = engines.compile(program, "onnxruntime", threads=1, batch_size=2)
    torch.testing.assert_close(runner(x), Block()(x), rtol=1e-5, atol=1e-5)
