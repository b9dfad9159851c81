"""The limits of options, what their rows say at them, and what targets and processors refuse."""

import dataclasses

import pytest
from networks import ADDS_INSIDE

from zeropoint.errors import InputError
from zeropoint.targets.options import Options
from zeropoint.targets.processor import PROCESSORS, mismatch, of_instruction_sets, parse_cpuinfo
from zeropoint.targets.recipe import EMBEDDINGS, FIRST_AND_LAST, Row
from zeropoint.targets.target import AT_RUN_TIME, NO_GROUPS, X86_ALONE, Limit, Target


@pytest.mark.parametrize(
    "valid",
    [
        {"weight_bits": 2},
        {"weight_bits": 8},
        {"activation_bits": 2},
        {"activation_bits": 16},
        {"distillation": 0.0},
        {"distillation": 1.0},
        {"calibration_batches": 1},
        {"weight_ranges": "mse"},
        {"rounding": "adaround"},
        {"step_sizes": "pact"},
        {"weight_granularity": "per-group", "group_size": 2},
    ],
)
def test_values_at_the_limits_are_valid(valid: dict[str, object]):
    options = Options(**valid)
    assert {name: getattr(options, name) for name in valid} == valid


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight_bits": 1},
        {"calibration_batches": -1},
        {"distillation": -0.1},
        {"group_size": 32},
        {"weight_granularity": "per-group", "group_size": 1},
        {"weight_granularity": "per-channel", "group_size": 4},
    ],
)
def test_values_beyond_them_are_not(wrong: dict[str, object]):
    with pytest.raises(InputError):
        Options(**wrong)


@pytest.mark.parametrize(
    ("chosen", "ends", "embeddings"),
    [
        ({}, (None, 8), 8),
        ({"weight_bits": 4, "activation_bits": 4}, (None, 8), 8),
        ({"weight_bits": 3}, (8, 8), 8),
        ({"weight_bits": 2, "activation_bits": 16}, (8, 16), 8),
        ({"weight_bits": 2, "end_bits": 4}, (4, 4), 4),
    ],
)
def test_first_and_last_layers_and_embeddings(chosen, ends, embeddings):
    rows = Options(**chosen).rows
    assert [row.layers for row in rows] == ["*", FIRST_AND_LAST, EMBEDDINGS]
    assert (rows[1].weight_bits, rows[1].activation_bits) == ends
    assert (rows[2].weight_bits, rows[2].activation_bits) == (embeddings, None)


def test_what_is_skipped_or_has_16_bits_is_the_last_word():
    options = Options(skip=("a",), activation16=("b", "c"), recipe=(Row("a", weight_bits=4),))
    assert options.rows[3:] == (
        Row("a", weight_bits=4),
        Row("a", float=True),
        Row("b", activation_bits=16, output_bits=16),
        Row("c", activation_bits=16, output_bits=16),
    )
    assert options.layer("a.inside").float is True
    assert options.layer("b").float is None
    assert (options.layer("b").activation_bits, options.layer("d").activation_bits) == (16, 8)


@pytest.mark.parametrize(("inputs", "size"), [(256, 128), (128, None), (96, 32), (64, 32), (32, None)])
def test_groups_by_default(inputs: int, size: int | None):
    assert Options(weight_granularity="per-group").layer("").group(inputs) == size


def test_plain_values_have_a_recipe_only_if_one_was_given():
    assert "recipe" not in Options().as_dict()
    assert Options(skip=("x",)).as_dict()["skip"] == ("x",)
    assert Options(recipe=(Row("head", weight_bits=4),)).as_dict()["recipe"]


def test_a_target_refuses_values_of_a_method_and_no_other():
    target = dataclasses.replace(ADDS_INSIDE, limits=(NO_GROUPS, *AT_RUN_TIME, X86_ALONE))
    groups = Options(weight_granularity="per-group", processor="vnni")
    assert target.refuses("dynamic", groups) == NO_GROUPS.reason
    assert target.refuses("static", groups) is None
    assert target.refuses("static", Options(processor="arm")) == X86_ALONE.reason
    assert target.refuses("weight-only", Options(processor="arm")) is None
    assert target.refuses("dynamic", Options(processor="any")) is None
    assert (
        target.refuses("dynamic", Options(processor="vnni", activation_symmetric=True))
        == AT_RUN_TIME[0].reason
    )
    assert target.refuses("dynamic", Options(processor="vnni", activation_bits=4)) == AT_RUN_TIME[1].reason
    assert target.refuses("dynamic", Options(processor="vnni", activation16=("a",))) == AT_RUN_TIME[2].reason


def test_a_target_refuses_a_row_and_takes_what_is_not_told():
    limit = Limit(("static",), "weight_bits", (8, 4), "other bits have no kernel")
    target = dataclasses.replace(ADDS_INSIDE, limits=(limit,))
    assert target.refuses("static", Options(recipe=(Row("a", weight_bits=3),))) == limit.reason
    assert target.refuses("static", Options(recipe=(Row("a", activation_bits=4),))) is None
    assert target.refuses("static", object()) is None  # without the option: as the first value


def test_a_remark_names_the_layers_with_float_activations():
    assert ADDS_INSIDE.remark() is None
    told = Target("e", frozenset(), frozenset(), weights_alone=frozenset({"linear", "conv"})).remark()
    assert told is not None
    assert told.startswith("e computes conv and linear layers with integer weights and float activations")


def test_what_a_target_needs_unless_it_says_otherwise():
    plain = Target("e", frozenset(), frozenset())
    assert plain.adds_before_rounding
    assert plain.zero_in_middle
    assert (plain.cuts_before_adding, plain.pools_sums, plain.quantizes_extremes) == (False,) * 3
    assert (plain.weights.signed, plain.weights.symmetric, plain.weights.granularity) == (
        True,
        True,
        "per-channel",
    )
    assert (plain.activations.signed, plain.activations.symmetric) == (False, False)
    assert (plain.products.signed, plain.products.symmetric, plain.products.granularity) == (
        True,
        True,
        "per-tensor",
    )


def test_which_processors_saturate():
    assert {name for name, one in PROCESSORS.items() if one.saturates} == {"avx512", "avx2", "any"}


def test_cpuinfo_of_an_arm_and_of_nothing():
    text = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd asimddp i8mm\n\nprocessor\t: 1\n"
    name, sets = parse_cpuinfo(text + "model name\t: Neoverse: N1\nmodel name\t: other\n")
    assert (name, sets) == ("Neoverse: N1", ["asimddp", "i8mm"])
    assert of_instruction_sets(sets).name == "arm"
    assert parse_cpuinfo("") == ("", [])
    assert of_instruction_sets(["sse2"]).name == "any"


def test_an_artefact_names_the_processor_to_quantize_for():
    told = mismatch("vnni", PROCESSORS["avx512"])
    assert told is not None
    assert "--processor avx512" in told
    assert told.startswith("made for x86 with VNNI: ")
    other = mismatch("avx2", PROCESSORS["arm"])
    assert other is not None
    assert "--processor arm" in other
