"""Rows in memory and in a file: the same ones come back."""

import pytest
import torch

from zeropoint.passes.rows import Rows


@pytest.mark.parametrize("spilled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_rows_come_back_as_they_were_put_in(spilled: bool, dtype: torch.dtype):
    values = torch.arange(5 * 6).reshape(5, 2, 3).to(dtype)
    rows = Rows(4, values, spilled=spilled)
    rows.append(values[:3])
    assert len(rows) == 3
    rows.append(values[3:])  # for one of which there is room
    assert len(rows) == 4
    assert torch.equal(rows[torch.tensor([3, 0])], values[[3, 0]])
