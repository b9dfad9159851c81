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


def test_rows_beyond_the_room_are_dropped_batch_by_batch():
    rows = Rows(3, torch.zeros(7, 2), spilled=False)
    assert len(rows) == 0
    assert (rows.shape, rows.dtype) == ((3, 2), torch.float32)
    for number in range(4):
        rows.append(torch.full((1, 2), float(number)))
    assert len(rows) == 3
    assert rows[torch.arange(3)].tolist() == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]


def test_what_is_read_is_a_copy():
    rows = Rows(2, torch.zeros(1, 2), spilled=True)
    rows.append(torch.ones(2, 2))
    rows[torch.tensor([0])].zero_()
    assert rows[torch.tensor([0])].tolist() == [[1.0, 1.0]]


def test_a_file_is_used_only_where_asked_for():
    assert Rows(2, torch.zeros(1, 2), spilled=True)._file is not None
    assert Rows(2, torch.zeros(1, 2), spilled=False)._file is None
