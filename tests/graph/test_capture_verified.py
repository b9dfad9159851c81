"""A capture is compared with the model, and says where they first differ."""

import random
import re

import pytest
import torch
from torch import nn

from zeropoint.errors import InputError
from zeropoint.graph.capture import capture
from zeropoint.graph.verify import same


class TwoLayers(nn.Module):
    """Two linear layers with ``between`` applied to what is between them; (N, 6) to (N, 3)."""

    def __init__(self, between) -> None:
        super().__init__()
        self.first, self.second, self.between = nn.Linear(6, 5), nn.Linear(5, 3), between

    def forward(self, x):
        """The outputs."""
        return self.second(self.between(self.first(x)))


EXAMPLE = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def test_a_graph_that_leaves_something_out_is_an_error_with_the_place():
    hidden = TwoLayers(lambda y: y if torch.compiler.is_compiling() else y + 1).eval()
    message = r"computes something else than the model on the example, first at second \(Linear\)"
    with pytest.raises(InputError, match=message):
        capture(hidden, EXAMPLE)


def test_what_hangs_on_python_state_is_named():
    drifting = TwoLayers(lambda y: y * (1 + random.random())).eval()
    with pytest.raises(InputError, match="other outputs at every call"):
        capture(drifting, EXAMPLE)


def test_a_branch_on_the_example_is_found_by_the_second_sample():
    # The exporter sees a number, and takes the branch of the example.
    branching = TwoLayers(lambda y: y * 2 if float(y.detach().flatten()[0].abs()) == KEPT[0] else y)
    first = branching.first(EXAMPLE).detach().flatten()[0]
    KEPT[:] = [float(first.abs())]
    with pytest.raises(InputError, match=re.compile("second sample|cannot be exported")):
        capture(branching.eval(), EXAMPLE)


KEPT = [0.0]


def test_random_numbers_from_torch_are_the_same_with_the_same_seed():
    noisy = TwoLayers(lambda y: y + torch.randn(5)).eval()
    assert capture(noisy, EXAMPLE)(EXAMPLE).shape == (4, 3)


def test_the_model_keeps_its_mode_and_its_buffers():
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    capture(model, EXAMPLE)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0, 2.0], [1.0, 2.0 + 1e-5], True),  # 20 log10(sqrt(5) / 1e-5) = 107 dB
        ([1.0, 2.0], [1.0, 2.01], False),  # 47 dB
        ([0.0, 0.0], [0.0, 0.0], True),
        ([1.0, float("nan")], [1.0, float("nan")], True),
        ([1.0, float("nan")], [1.0, 2.0], False),
        ([1.0, float("inf")], [1.0, float("-inf")], False),
        ([1.0, 2.0], [1.0], False),
    ],
)
def test_what_counts_as_the_same(wanted, found, expected):
    assert same([torch.tensor(wanted)], [torch.tensor(found)]) is expected


def test_integers_may_differ_in_one_of_a_hundred():
    wanted = torch.arange(200)
    assert same([wanted], [torch.where(wanted == 3, 4, wanted)])
    assert not same([wanted], [torch.where(wanted < 3, 4, wanted)])
    assert not same([wanted], [wanted.float()])
    assert not same([wanted], [])


def test_the_model_runs_on_each_of_its_samples_once():
    """On the example, on the second sample, and on both together; the exporter calls it with no values."""
    sizes = []

    class Counted(nn.Module):
        def forward(self, x):
            if type(x) is torch.Tensor:
                sizes.append(len(x))
            return x * 2

    capture(Counted(), torch.rand(3, 4))
    assert sizes == [3, 3, 6]
