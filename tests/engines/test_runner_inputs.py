"""What a runner takes beside tensors of the type that the model was captured with."""

import pytest
import torch
from networks import images, residual

import zeropoint as zp
from zeropoint import engines
from zeropoint.errors import InputError


@pytest.mark.parametrize("engine", engines.NAMES)
def test_arrays_and_floats_of_other_types_are_taken(engine):
    x = images(2)
    runner = zp.compile(residual(), engine, threads=1, batch_size=2)
    wanted = runner(x)
    for given in (x.numpy(), x.double(), x.double().numpy()):
        assert torch.equal(runner(given), wanted)
    assert runner(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("engine", engines.NAMES)
def test_integers_for_floats_are_refused_in_a_line(engine):
    runner = zp.compile(residual(), engine, threads=1)
    with pytest.raises(
        InputError,
        match=r"^input 1 is of torch.int64; the model takes torch.float32: use",
    ):
        runner(torch.ones(1, 3, 8, 8, dtype=torch.int64))
