"""Which stack of matrices a product reads, and along which of its axes the inputs lie."""

import functools
from collections.abc import Callable

import pytest
import torch
from networks import ADDS_INSIDE, options
from torch import Tensor, nn
from torch.fx import GraphModule

from zeropoint.graph.capture import capture
from zeropoint.targets.experts import stacks
from zeropoint.targets.placement import place_static, place_weights
from zeropoint.targets.sites import WeightPlace

F = nn.functional


class Experts(nn.Module):
    """Functions, each of four matrices from six inputs to five outputs, of tokens and the experts chosen."""

    def __init__(self, *functions: Callable[..., Tensor]) -> None:
        super().__init__()
        self.functions = functions
        self.stacks = nn.ParameterList(torch.ones(4, 6, 5) for _ in functions)

    def forward(self, x: Tensor, chosen: Tensor) -> list[Tensor]:
        """``x`` is (3, 2, 6), ``chosen`` (3)."""
        pairs = zip(self.functions, self.stacks, strict=True)
        return [function(stack, x, chosen) for function, stack in pairs]


def read(*functions: Callable[..., Tensor]) -> list[list[tuple[str, int]]]:
    """The stacks that each product reads, by name, and the axes that it sums over."""
    module = capture(Experts(*functions).eval(), INPUTS).module
    found = [found for node in module.graph.nodes if (found := stacks(node))]
    return [[(str(node.target), axis) for node, axis in one] for one in found]


INPUTS = torch.ones(3, 2, 6), torch.tensor([0, 3, 1])

READ = {
    "whole": lambda w, x, i: x[:1] @ w,
    "chosen": lambda w, x, i: torch.bmm(x, w[i]),
    "chosen by index_select": lambda w, x, i: x @ w.index_select(0, i),
    "chosen twice over": lambda w, x, i: torch.einsum("bti,btio->bto", x, w[i[:, None].expand(3, 2)]),
    "added to": lambda w, x, i: torch.baddbmm(torch.zeros(3, 2, 5), x, w[i]),
    "on the left": lambda w, x, i: w[i].transpose(1, 2) @ x.transpose(1, 2),
    "one of the chosen": lambda w, x, i: x[0] @ w[i][1],
    "outputs of the chosen": lambda w, x, i: x[0] @ w[i].permute(2, 1, 0)[1],
    "einsum": lambda w, x, i: torch.einsum("ebti,eio->beto", x.expand(4, -1, -1, -1), w),
    "einsum with spaces": lambda w, x, i: torch.einsum("e b t i, e i o -> b t o e", x.expand(4, 3, 2, 6), w),
    "einsum with an ellipsis": lambda w, x, i: torch.einsum("...ti,...io->...to", x, w[i]),
    "turned there and back": lambda w, x, i: x @ w[i].transpose(1, 2).contiguous().transpose(-1, -2),
    "permuted": lambda w, x, i: x @ w[i].permute(2, 0, 1).permute(1, -1, 0),
    "with an axis before": lambda w, x, i: x.unsqueeze(1) @ w[i].unsqueeze(1),
    "with an axis behind": lambda w, x, i: torch.einsum("bti,bios->btos", x, w[i].unsqueeze(-1)),
    "a part": lambda w, x, i: x[:, :, :4] @ w[i][:, :4],
}


def test_products_sum_over_the_inputs_of_the_stack():
    names = {f"stacks.{number}": name for number, name in enumerate(READ)}
    found = {names[name]: axis for ((name, axis),) in read(*READ.values())}
    assert found == dict.fromkeys(READ, 1)  # along which there are six


NONE = {
    "scaled": lambda w, x, i: x @ (w[i] * 2),
    "indexed along the inputs": lambda w, x, i: x[:, :, :3] @ w[:, i][:3],
    "a sum over an axis of one": lambda w, x, i: x[:, :, :1].unsqueeze(1) @ w[i].unsqueeze(2),
    "a sum over two axes": lambda w, x, i: torch.einsum("bti,eio->bt", x, w),
    "an ellipsis": lambda w, x, i: torch.einsum("...bti,...io->...bto", x[:, None, None], w[i]),
    "a layer's weight": lambda w, x, i: torch.einsum("bti,eio->beto", x, w),
    "no sum": lambda w, x, i: torch.einsum("bti,eio->btieo", x, w),
    "a table": lambda w, x, i: x @ w[0],
    "added": lambda w, x, i: x.sum() + w[i],
}


def test_other_reads_of_a_stack_are_not_of_one():
    assert read(*NONE.values()) == []


def test_both_factors_may_be_stacks():
    found = read(lambda w, x, i: w[i] @ w[i].transpose(1, 2) + x.sum())
    assert found == [[("stacks.0", 2), ("stacks.0", 2)]]


def test_a_sum_over_the_chosen_ones_is_along_the_first_axis():
    assert read(lambda w, x, i: x[:, :, :3] @ w[i].permute(1, 0, 2)[:3]) == [[("stacks.0", 0)]]


@functools.cache
def chosen_experts() -> GraphModule:
    return capture(Experts(READ["chosen"]).eval(), INPUTS).module


@pytest.mark.parametrize(("size", "group"), [(None, 6), (2, 2), (3, 3), (4, 6)])
def test_a_stack_has_scales_for_each_output_or_for_groups_of_inputs(size: int | None, group: int):
    module = chosen_experts()
    asked = {} if size is None else {"weight_granularity": "per-group", "group_size": size}
    for place in (place_static, place_weights):
        placement = place(module, ADDS_INSIDE, options(weight_bits=4, **asked))
        (found,) = placement.weights
        assert isinstance(found, WeightPlace)
        assert (found.axis, found.group, found.inputs) == (0, group, 1)
        assert (found.scheme.bits, found.scheme.granularity) == (4, "per-channel")
        assert not placement.edges
