"""What a runner takes beside tensors of the type that the model was captured with."""

import pytest
import torch
from networks import images, residual

import zeropoint as zp
from zeropoint import engines


@pytest.mark.parametrize("engine", engines.NAMES)
def test_arrays_and_floats_of_other_types_are_taken(engine):
    x = images(2)
    runner = zp.compile(residual(), engine, threads=1, batch_size=2)
    wanted = runner(x)
    for given in (x.numpy(), x.double(), x.double().numpy()):
        assert torch.equal(runner(given), wanted)
    assert runner(x.bfloat16()).dtype == torch.float32
