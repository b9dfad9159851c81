import operator

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from zeropoint.data.batches import check, example_inputs, gathered, limit, split
from zeropoint.errors import InputError

IMAGES = torch.zeros(4, 3, 8, 8)
LABELS = torch.arange(4)


@pytest.mark.parametrize("pair", [(IMAGES, LABELS), [IMAGES, LABELS], ((IMAGES,), LABELS.to(torch.uint8))])
def test_a_pair_with_integer_labels_is_inputs_and_labels(pair):
    inputs, labels = split(pair)
    assert len(inputs) == 1
    assert inputs[0] is IMAGES
    assert labels.tolist() == [0, 1, 2, 3]


def test_a_scalar_label_belongs_to_a_batch_of_one():
    assert split((IMAGES[:1], torch.tensor(7)))[1].tolist() == [7]
    assert split((IMAGES, torch.tensor(7)))[1] is None


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        (IMAGES, 1),
        ((IMAGES,), 1),
        ((IMAGES, IMAGES), 2),
        ((IMAGES, torch.rand(4)), 2),  # floats are no labels
        ((IMAGES, torch.ones(4, dtype=torch.bool)), 2),
        ((IMAGES, torch.arange(5)), 2),  # nor integers of another length
        ([IMAGES, LABELS, LABELS], 3),
        (((IMAGES, LABELS), None), 2),
    ],
)
def test_everything_else_is_inputs_alone(batch, count):
    inputs, labels = split(batch)
    assert len(inputs) == count
    assert labels is None


@pytest.mark.parametrize(
    ("batch", "count", "inputs"),
    [
        ((IMAGES, torch.rand(4)), 1, 1),
        ((IMAGES, torch.zeros(4, 8, 8)), 1, 1),
        ((IMAGES, IMAGES), 1, 1),
        ((IMAGES, [{"boxes": torch.zeros(1, 4)}]), 1, 1),
        ((IMAGES, LABELS, LABELS), 2, 2),
        (((IMAGES, IMAGES), torch.rand(4)), None, 2),
        ((IMAGES, ["cat"] * 4), None, 1),
    ],
)
def test_targets_of_any_structure(batch, count, inputs):
    found = split(batch, count)
    assert len(found.inputs) == inputs
    assert found.targets is batch[-1]
    assert split(found, count) is found


def test_a_model_of_two_inputs_gets_both_even_if_the_second_looks_like_labels():
    assert [len(split((IMAGES, LABELS), count).inputs) for count in (1, 2)] == [1, 2]


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ({"image": IMAGES}, "a dict"),
        ((), "a tuple of nothing"),
        ("text", "a str"),
        (([1, 2], LABELS), "a list of int"),
    ],
)
def test_what_is_no_batch_is_told(batch, told):
    with pytest.raises(InputError, match=told):
        split(batch)


def test_example_inputs_are_those_of_the_first_batch():
    loader = DataLoader(TensorDataset(torch.arange(6.0), torch.arange(6)), batch_size=4)
    (example,) = example_inputs(loader)
    assert example.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("loader", "told"),
    [
        ([], "yields no batch"),
        (["text"], "a str"),
        ((IMAGES for _ in range(3)), "reads only once"),
        (iter([IMAGES]), "reads only once"),
        (TensorDataset(IMAGES), "wrap the data in a DataLoader"),
        (3, "wrap the data in a DataLoader"),
    ],
)
def test_what_is_no_loader_is_told(loader, told):
    with pytest.raises(InputError, match=told):
        example_inputs(loader)


def test_limit_cuts_every_time_anew_and_pulls_no_batch_too_many():
    pulled = []

    class Endless:
        def __iter__(self):
            while True:
                pulled.append(IMAGES)
                yield IMAGES

    loader = limit(Endless(), 3)
    assert operator.length_hint(loader) == 3
    assert [len(list(loader)), len(list(loader))] == [3, 3]
    assert len(pulled) == 6
    check(loader, "it")


def test_limit_keeps_the_length():
    assert operator.length_hint(limit([IMAGES] * 5, 3)) == 3
    assert operator.length_hint(limit([IMAGES] * 2, 3)) == 2
    whole = [IMAGES]
    assert limit(whole, None) is whole
    with pytest.raises(InputError, match="1 or more"):
        limit(whole, 0)


def test_small_batches_are_put_together_in_order():
    sizes = [1, 2, 5, 3, 3, 9, 1]
    numbers = torch.arange(sum(sizes)).split(sizes)
    found = [inputs[0] for inputs in gathered(((part, -part) for part in numbers), 6)]
    assert [len(part) for part in found] == [3, 5, 6, 9, 1]  # a larger one stays whole
    assert torch.cat(found).tolist() == list(range(sum(sizes)))
    pairs = list(gathered(((part, -part) for part in numbers), 6))
    assert all(torch.equal(first, -second) for first, second in pairs)


def test_batches_of_other_shapes_stay_apart():
    shapes = [(1, 3), (1, 3), (1, 4), (1, 3)]
    found = gathered(((torch.zeros(shape),) for shape in shapes), 8)
    assert [tuple(inputs[0].shape) for inputs in found] == [(2, 3), (1, 4), (1, 3)]
