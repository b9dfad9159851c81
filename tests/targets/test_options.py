import pytest

from zeropoint.errors import InputError
from zeropoint.numerics.scheme import Scheme
from zeropoint.targets.options import Options
from zeropoint.targets.recipe import matches


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight_bits": 9},
        {"activation_bits": 17},
        {"activation_bits": 1},
        {"end_bits": 9},
        {"rounding": "gtpq"},
        {"ranges": "minmx"},
        {"weight_ranges": "entropy"},
        {"calibration_batches": 0},
        {"distillation": 1.5},
        {"step_sizes": "lqs"},
    ],
)
def test_wrong_values_are_input_errors(wrong):
    with pytest.raises(InputError):
        Options(**wrong)


def test_an_unknown_granularity_is_an_input_error():
    with pytest.raises(InputError, match="per-row"):
        Options(weight_granularity="per-row")


def test_a_slip_is_answered_with_the_closest_name():
    with pytest.raises(InputError, match="did you mean minmax"):
        Options(ranges="minmx")
    with pytest.raises(InputError, match="did you mean minmax"):
        Options(weight_ranges="minmx")
    with pytest.raises(InputError, match="did you mean gptq"):
        Options(rounding="gtpq")
    with pytest.raises(InputError, match="did you mean lsq"):
        Options(step_sizes="lqs")


def test_what_nobody_asked_for_is_off():
    options = Options()
    assert (options.bits, options.recipe, options.skip, options.no_fuse, options.activation16) == (
        *("W8A8", ()),
        *((), (), ()),
    )
    assert not options.progressive
    assert options.seed == 0
    assert options.calibration_batches is None


def test_what_is_not_chosen_is_the_targets():
    default = Scheme(8, False, False)
    assert Options().layer("").activations(default) == default
    chosen = Options(activation_bits=4, activation_symmetric=True).layer("")
    assert chosen.activations(default) == Scheme(4, False, True)
    chosen = Options(weight_granularity="per-tensor", weight_symmetric=False).layer("")
    assert chosen.weights(Scheme()) == Scheme(8, True, False)


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("features.0", "features.0", True),
        ("features.0.conv", "features.0", True),  # lies in it
        ("features.01", "features.0", False),
        ("features.0", "features.*", True),
        ("head", "*", True),
        ("features.0", "0", False),
        ("Features", "features", False),
    ],
)
def test_matching(name, pattern, expected):
    assert matches(name, (pattern,)) is expected


def test_a_pattern_that_matches_nothing():
    Options(skip=("conv*",), no_fuse=("block",)).check_patterns(["conv1", "block.0"])
    with pytest.raises(InputError, match=r"--skip 'cov1' matches no module.*did you mean conv1"):
        Options(skip=("cov1",)).check_patterns(["conv1", "block.0"])
    with pytest.raises(InputError, match="--no-fuse"):
        Options(no_fuse=("zzz",)).check_patterns(["conv1"])


def test_bits_are_written_as_in_papers():
    options = Options(ranges="minmax").at("w4a6")
    assert (options.weight_bits, options.activation_bits, options.ranges) == (4, 6, "minmax")
    assert options.bits == "W4A6"
    assert Options().at("W8A16").activation_bits == 16


@pytest.mark.parametrize("wrong", ["W4", "4", "A8W4", "W4A", "", "W9A8", "W4A17", "W16A16"])
def test_bits_that_there_are_not(wrong: str):
    with pytest.raises(InputError):
        Options().at(wrong)
