"""Which stack of matrices a product reads, and along which of its axes the inputs lie."""

from collections.abc import Callable

import pytest
import torch
from networks import ADDS_INSIDE, options
from torch import Tensor, nn

from zeropoint.graph.capture import capture
from zeropoint.targets.experts import stacks
from zeropoint.targets.placement import place_static, place_weights
from zeropoint.targets.sites import WeightPlace

F = nn.functional


class Experts(nn.Module):
    """A function of four matrices from six inputs to five outputs, of tokens and of the experts chosen."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function, self.stack = function, nn.Parameter(torch.ones(4, 6, 5))

    def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
        """``x`` is (3, 2, 6), ``chosen`` (3)."""
        return self.function(self.stack, x, chosen)


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
    "einsum": lambda w, x, i: torch.einsum("bti,eio->beto", x, w),
    "einsum with spaces": lambda w, x, i: torch.einsum("b t i, e i o -> b e t o", x, w),
    "turned there and back": lambda w, x, i: x @ w[i].transpose(1, 2).contiguous().transpose(-1, -2),
    "permuted": lambda w, x, i: x @ w[i].permute(2, 0, 1).permute(1, -1, 0),
    "with an axis before": lambda w, x, i: x.unsqueeze(1) @ w[i].unsqueeze(1),
    "with an axis behind": lambda w, x, i: torch.einsum("bti,bios->btos", x, w[i].unsqueeze(-1)),
    "a part": lambda w, x, i: x[:, :, :4] @ w[i][:, :4],
}


@pytest.mark.parametrize("name", READ)
def test_a_product_sums_over_the_inputs_of_the_stack(name: str):
    module = capture(Experts(READ[name]).eval(), INPUTS).module
    found = [(node.target, axis) for of in module.graph.nodes for node, axis in stacks(of)]
    assert found == [("stack", 1)]  # of which there are six


NONE = {
    "scaled": lambda w, x, i: x @ (w[i] * 2),
    "indexed along the inputs": lambda w, x, i: x[:, :, :3] @ w[:, i][:3],
    "a sum over an axis of one": lambda w, x, i: x[:, :, :1].unsqueeze(1) @ w[i].unsqueeze(2),
    "a sum over two axes": lambda w, x, i: torch.einsum("bti,eio->bt", x, w),
    "an ellipsis": lambda w, x, i: torch.einsum("...ti,...io->...to", x, w[i]),
    "no sum": lambda w, x, i: torch.einsum("bti,eio->btieo", x, w),
    "a table": lambda w, x, i: x @ w[0],
    "added": lambda w, x, i: x.sum() + w[i],
}


@pytest.mark.parametrize("name", NONE)
def test_other_reads_of_a_stack_are_not_of_one(name: str):
    module = capture(Experts(NONE[name]).eval(), INPUTS).module
    assert not [found for node in module.graph.nodes if (found := stacks(node))]


def test_both_factors_may_be_stacks():
    module = capture(Experts(lambda w, x, i: w[i] @ w[i].transpose(1, 2) + x.sum()).eval(), INPUTS).module
    (found,) = (found for node in module.graph.nodes if (found := stacks(node)))
    assert [(node.target, axis) for node, axis in found] == [("stack", 2), ("stack", 2)]


@pytest.mark.parametrize(("size", "group"), [(None, 6), (2, 2), (3, 3), (4, 6)])
def test_a_stack_has_scales_for_each_output_or_for_groups_of_inputs(size: int | None, group: int):
    module = capture(Experts(READ["chosen"]).eval(), INPUTS).module
    asked = {} if size is None else {"weight_granularity": "per-group", "group_size": size}
    for place in (place_static, place_weights):
        placement = place(module, ADDS_INSIDE, options(weight_bits=4, **asked))
        (found,) = placement.weights
        assert isinstance(found, WeightPlace)
        assert (found.axis, found.group, found.inputs) == (0, group, 1)
        assert (found.scheme.bits, found.scheme.granularity) == (4, "per-channel")
        assert not placement.edges
