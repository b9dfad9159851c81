"""Items held out: what is fitted to and what judges are apart, and nothing is lost."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zeropoint.data.batches import inputs_of
from zeropoint.data.held_out import EVERY, divided


def numbers(loader):
    return [int(number) for (rows,) in inputs_of(loader) for number in rows]


def batches(sizes):
    return list(torch.arange(sum(sizes)).split(sizes))


@given(st.lists(st.integers(1, 11), min_size=1, max_size=7).filter(lambda sizes: sum(sizes) > 1))
def test_every_item_is_in_one_part(sizes):
    to_fit, held_out = divided(batches(sizes), by_item=True)
    fitted, judged = numbers(to_fit), numbers(held_out)
    assert sorted(fitted + judged) == list(range(sum(sizes)))
    assert fitted
    assert judged
    assert numbers(to_fit) == fitted  # read again, as several passes do


@pytest.mark.parametrize(
    ("sizes", "judged"),
    [
        ([32], [7, 15, 23, 31]),
        ([5, 6, 5], [7, 15]),
        ([4], [3]),
        ([1, 1], [1]),
    ],
)
def test_of_eight_the_last_and_of_fewer_the_last_of_all(sizes, judged):
    assert numbers(divided(batches(sizes), by_item=True)[1]) == judged


def test_batches_that_cannot_be_parted_are_items():
    to_fit, held_out = divided(batches([2] * EVERY), by_item=False)
    assert numbers(held_out) == [14, 15]
    assert numbers(to_fit) == list(range(14))


def test_one_item_is_both():
    to_fit, held_out = divided(batches([1]), by_item=True)
    assert numbers(to_fit) == numbers(held_out) == [0]


def test_labels_are_left_behind_and_layouts_are_kept():
    images = torch.rand(16, 3, 4, 4).to(memory_format=torch.channels_last)
    to_fit, held_out = divided([(images, torch.zeros(16, dtype=torch.long))], by_item=True)
    (fitted,), (judged,) = (next(iter(part)).inputs for part in (to_fit, held_out))
    assert torch.equal(judged, images[[7, 15]])
    assert fitted.is_contiguous(memory_format=torch.channels_last)


def test_a_second_input_that_looks_like_labels_stays():
    batch = ((torch.rand(16, 3), torch.arange(16)), None)
    for part in divided([batch], by_item=True):
        for inputs in inputs_of(part):
            assert [tensor.shape[1:] for tensor in inputs] == [(3,), ()]
