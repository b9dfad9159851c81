"""Recipes: rows in order, of which later ones override earlier ones."""

import json

import pytest
from networks import ADDS_INSIDE, images, residual, static
from networks import options as plain_options

from zeropoint.engines import target
from zeropoint.errors import InputError
from zeropoint.graph.program import load as load_program
from zeropoint.graph.quantizers import quantizers
from zeropoint.numerics.scheme import Scheme
from zeropoint.targets import recipe
from zeropoint.targets.options import Options
from zeropoint.targets.recipe import EMBEDDINGS, FIRST_AND_LAST, Row


def test_later_rows_override_what_they_name_and_nothing_else():
    rows = (
        Row("*", weight_bits=4, activation_bits=8),
        Row("layer1", activation_bits=16),
        Row("layer1.0", weight_bits=2),
    )
    inner, outer = recipe.merged(rows, "layer1.0.conv"), recipe.merged(rows, "layer1.1")
    assert (inner.weight_bits, inner.activation_bits) == (2, 16)
    assert (outer.weight_bits, outer.activation_bits) == (4, 16)
    assert recipe.merged(rows, "head").activation_bits == 8


@pytest.mark.parametrize(
    ("chosen", "first", "inside", "table"),
    [
        ({}, (8, 8), (8, 8), 8),
        ({"weight_bits": 4, "activation_bits": 4}, (4, 8), (4, 4), 8),
        ({"weight_bits": 2, "activation_bits": 16}, (8, 16), (2, 16), 8),
        ({"weight_bits": 2, "activation_bits": 4, "end_bits": 6}, (6, 6), (2, 4), 6),
    ],
)
def test_short_forms_are_rows(chosen, first, inside, table):
    options = Options(**chosen)
    at_end, at_inside = options.layer("conv", FIRST_AND_LAST), options.layer("conv")
    assert (at_end.weight_bits, at_end.activation_bits) == first
    assert (at_inside.weight_bits, at_inside.activation_bits) == inside
    assert options.layer("embed", EMBEDDINGS).weight_bits == table


def test_skip_and_activation16_override_a_recipe():
    options = Options(
        recipe=(Row("conv*", activation_bits=4, float=False),), skip=("conv1",), activation16=("conv2",)
    )
    assert options.layer("conv1").float
    assert not options.layer("conv3").float
    assert (options.layer("conv2").activation_bits, options.layer("conv2").output_bits) == (16, 16)


def test_a_file_gives_back_the_recipe(tmp_path):
    rows = (Row("*", weight_bits=4, weight_granularity="per-group", group_size=32), Row("head", float=True))
    path = tmp_path / "recipe.json"
    path.write_text(recipe.text(rows))
    assert recipe.load(path) == rows
    assert json.loads(path.read_text())[1] == {"layers": "head", "float": True}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a JSON list of rows"),
        ('{"layers": "*"}', "is not a JSON list of rows"),
        ('[{"layer": "*"}]', "row 1: unknown field 'layer'"),
        ('[{}, {"weight_bits": 9}]', "row 2: weight_bits is 9; give an int from 2 to 8, or None"),
        ('[{"weight_bits": "four"}]', "row 1: .*weight_bits"),
        ('[{"layers": "@middle"}]', "row 1: unknown place '@middle'; valid: @first-and-last, @embeddings"),
        ('[{"group_size": 8}]', "row 1: a group size"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, content, message):
    path = tmp_path / "recipe.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        recipe.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_row_that_matches_nothing(tmp_path):
    with pytest.raises(InputError, match="cannot read the recipe"):
        recipe.load(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match=r"the recipe's row 'cov1' matches no module.*did you mean conv1"):
        Options(recipe=(Row("cov1"),)).check_patterns(["conv1"])
    Options(recipe=(Row(FIRST_AND_LAST, weight_bits=8),)).check_patterns(["conv1"])


def test_bits_by_layer_are_placed_and_travel_in_the_file(tmp_path):
    model = residual()
    chosen = plain_options(recipe=(Row("inner", weight_bits=4, activation_bits=6), Row("head", float=True)))
    program = static(model, ADDS_INSIDE, [images()], chosen)
    bits = {one.name: one.scheme.bits for one in quantizers(program.module) if one.is_weight}
    assert bits == {"stem.weight": 8, "inner.weight": 4}
    entering = [
        one.scheme.bits
        for one in quantizers(program.module)
        if any("inner" in str(user.args) for user in one.node.users) and not one.is_weight
    ]
    assert 6 in entering
    program.save(tmp_path / "m.pt2")
    again = load_program(tmp_path / "m.pt2")
    assert again.schemes == program.schemes
    assert again.decisions == program.decisions


@pytest.mark.parametrize(
    ("size", "inputs", "expected"),
    [
        (None, 256, 128),
        (None, 128, None),
        (None, 127, None),
        (None, 96, 32),
        (None, 32, None),
        (16, 96, 16),
        (64, 96, None),
    ],
)
def test_groups_are_of_a_size_that_divides_the_inputs(size, inputs, expected):
    assert Row("*", weight_granularity="per-group", group_size=size).group(inputs) == expected
    assert Row("*", weight_granularity="per-channel", group_size=None).group(inputs) is None


def test_a_row_changes_what_it_names_of_a_scheme():
    default = Scheme(8, symmetric=True, granularity="per-channel")
    assert Row("*").weights(default) == Row("*").activations(default) == default
    tensor = Row("*", weight_bits=4, weight_symmetric=False, weight_granularity="per-tensor").weights(default)
    assert (tensor.bits, tensor.symmetric, tensor.granularity) == (4, False, "per-tensor")
    groups = Row("*", weight_granularity="per-group").weights(default)
    assert (groups.bits, groups.symmetric, groups.granularity) == (8, True, "per-channel")
    affine = Row("*", activation_bits=6, activation_symmetric=False).activations(default)
    assert (affine.bits, affine.symmetric) == (6, False)


def test_a_scheme_does_not_change_in_the_file(tmp_path):
    # Affine 7-bit weights are stored as int8, and a range without negative values has its zero at an end.
    chosen = plain_options(weight_bits=7, weight_symmetric=False)
    program = static(residual(), ADDS_INSIDE, [images()], chosen)
    program.save(tmp_path / "m.pt2")
    again = load_program(tmp_path / "m.pt2")
    assert {scheme.symmetric for scheme in again.schemes.values()} == {False}
    assert again.schemes == program.schemes
    assert (again(images()) == program(images())).all()


def test_an_engine_refuses_a_row_as_it_refuses_the_option():
    reason = "engines quantize to 8 bits at run time"
    for chosen in (Options(activation_bits=4), Options(recipe=(Row("head", activation_bits=4),))):
        assert target("openvino").refuses("dynamic", chosen) == reason
    assert target("openvino").refuses("dynamic", Options(recipe=(Row("head", weight_bits=4),))) is None
