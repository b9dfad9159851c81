"""Structures: tensors taken out of any container and put back, and structures as JSON."""

import json
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st

from zeropoint.data.nested import (
    Leaf,
    Record,
    constants,
    flatten,
    from_json,
    leaf_paths,
    plain,
    restore,
    to_json,
)


@dataclass(frozen=True)
class Outputs:
    logits: object
    states: object = None


Pair = namedtuple("Pair", ["first", "second"])
leaves = st.integers(0, 99).map(lambda n: torch.tensor([n]))
values = st.recursive(
    leaves | st.none() | st.booleans() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3)
        | st.builds(Outputs, inner, inner)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=8,
)


@given(values)
def test_what_is_taken_out_and_put_back_is_the_same(value):
    tensors, structure = flatten(value)
    again = restore(structure, list(tensors.values()))
    assert to_json(flatten(again)[1]) == to_json(structure)
    assert [float(one) for one in flatten(again)[0].values()] == [float(one) for one in tensors.values()]
    assert list(flatten(again)[0]) == list(tensors) == leaf_paths(structure)


@given(values)
def test_structures_survive_json_with_their_leaves(value):
    _, structure = flatten(value)
    again = from_json(json.loads(json.dumps(to_json(structure))))
    assert leaf_paths(again) == leaf_paths(structure)
    assert to_json(plain(again, keep=True)) == to_json(plain(structure, keep=True))


def test_paths_and_constants():
    value = {"x": torch.zeros(1), "more": [torch.ones(1), {"mask": None, "scale": 2.0}]}
    tensors, structure = flatten(value)
    assert list(tensors) == ["x", "more.0"]
    assert constants(structure) == {"more.1.mask": None, "more.1.scale": 2.0}
    assert plain(structure, keep=False) == {"x": Leaf(0), "more": [Leaf(1)]}


def test_containers_keep_their_class_and_stay_unchanged():
    held = SimpleNamespace(keys=[torch.zeros(1)], name="layer")
    value = OrderedDict(a=Pair(torch.ones(1), 3), b=held)
    tensors, structure = flatten(value)
    again = restore(structure, [tensor + 5 for tensor in tensors.values()])
    assert isinstance(again, OrderedDict)
    assert isinstance(again["a"], Pair)
    assert again["a"].second == 3
    assert again["b"].name == "layer"
    assert float(again["b"].keys[0]) == 5
    assert float(held.keys[0]) == 0
    assert float(value["a"].first) == 1


def test_an_object_that_holds_itself_ends():
    loop = SimpleNamespace(x=torch.zeros(1))
    loop.me = loop
    tensors, structure = flatten(loop)
    assert float(restore(structure, [tensor + 1 for tensor in tensors.values()]).x) == 1


def test_classes_come_back_as_records():
    _, structure = flatten(Outputs(torch.zeros(1), {"h": torch.ones(1)}))
    again = restore(from_json(to_json(structure)), ["a", "b"])
    assert isinstance(again, Record)
    assert again.logits == again["logits"] == "a"
    assert again.states == {"h": "b"}


def test_a_plain_structure_holds_what_a_file_can():
    structure = {
        "logits": Leaf(0),
        "note": "text",
        "count": 3,
        "both": (True, None, Leaf(1)),
        "dtype": torch.int8,
    }
    kept = {"logits": Leaf(0), "note": None, "count": 3, "both": (True, None, Leaf(1)), "dtype": None}
    assert plain(structure, keep=True) == kept
    assert plain(structure, keep=False) == {"logits": Leaf(0), "both": (Leaf(1),)}
