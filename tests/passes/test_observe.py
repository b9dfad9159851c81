"""Observing: ranges of values on calibration data, what a ReLU cuts off, and data that says too little."""

import random

import pytest
import torch
from networks import ADDS_INSIDE, images, options, residual, static
from torch import nn

from zeropoint.errors import InputError, InputWarning
from zeropoint.graph.capture import capture
from zeropoint.numerics.ranges import ESTIMATORS, Statistics
from zeropoint.numerics.scheme import Scheme, choose_parameters
from zeropoint.passes.observe import Ranges, run_on

UNSIGNED = Scheme(8, signed=False, symmetric=False)


def batches(n=4):
    return [images(2, seed) for seed in range(n)]


def observe(module, sources, calibration, estimator, shared=None, **keywords):
    ranges = Ranges(module, sources, estimator, **keywords)
    ranges.see(calibration)
    found = ranges.parameters(shared)
    ranges.warn_of_little()
    return found


def run(calibration, program=None, estimator="minmax", **keywords):
    module = (program or residual()).module
    source = module.graph.find_nodes(op="placeholder")[0].name
    return observe(module, {(source, UNSIGNED)}, calibration, estimator, **keywords)


def test_observed_in_one_pass():
    everything = torch.cat(batches())
    ((scale, zero_point),) = run(iter(batches())).values()
    expected = choose_parameters(everything.min().reshape(1), everything.max().reshape(1), UNSIGNED)
    assert (scale, zero_point) == expected


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_ranges_go_on_from_the_batches_before(estimator):
    module = residual().module
    source = module.graph.find_nodes(op="placeholder")[0].name
    parts = Ranges(module, {(source, UNSIGNED)}, estimator)
    parts.see(batches()[:1])
    (few,) = parts.parameters().values()
    parts.see(batches()[1:], first=1)
    (whole,) = run(batches(), estimator=estimator).values()
    assert parts.parameters() == {(source, UNSIGNED): whole}
    assert few != whole
    with pytest.raises(InputError, match="batch 6 has shape"):
        parts.see([images(), torch.randn(3, 8, 8)], first=4)


@pytest.mark.parametrize(
    ("calibration", "match"),
    [
        ([], "empty"),
        ([images(0)], "batch 1 is empty"),
        ([images(), images() * float("nan")], "batch 2 holds NaN"),
        ([images() / 0], "holds NaN or Inf"),
        ([torch.randn(2, 4, 8, 8)], r"shape \(2, 4, 8, 8\); the model takes \(any, 3, 8, 8\)"),
        ([torch.randn(3, 8, 8)], "has shape"),
        ([(images(), images())], "has 2 inputs; the model takes 1"),
        ([images().double()], "float64"),
        ([images().to(torch.uint8)], "uint8"),
        (["image"], "batch"),
    ],
)
def test_calibration_data_that_does_not_fit(calibration, match):
    with pytest.raises(InputError, match=match) as caught:
        run(calibration)
    assert "\n" not in str(caught.value)


def test_every_source_has_a_scheme_of_its_own():
    module = residual().module
    names = [node.name for node in module.graph.nodes if node.name in ("x", "relu_")]
    four, signed = Scheme(4, signed=False, symmetric=False), Scheme()
    found = observe(module, list(zip(names, (four, signed), strict=True)), batches(), "minmax")
    found = {name: parameters for (name, _), parameters in found.items()}
    everything = torch.cat(batches())
    low, high = everything.min().item(), everything.max().item()
    assert found["x"][0].item() == pytest.approx((high - low) / 15)
    assert found["x"][1].item() == round(-low / ((high - low) / 15))
    with torch.no_grad():
        values = torch.fx.Interpreter(module, garbage_collect_values=False)
        values.run(everything)
    (relu,) = (value for node, value in values.env.items() if node.name == "relu_")
    assert found["relu_"][0].item() == pytest.approx(relu.max().item() / 127, rel=1e-5)
    assert found["relu_"][1].item() == 0


def test_values_that_overflow_inside_the_model_are_told_with_the_module():
    class Log(nn.Module):
        def forward(self, x):
            return torch.log(x)

    program = capture(nn.Sequential(nn.Identity(), Log(), nn.Conv2d(3, 2, 1)), images().abs())
    with pytest.raises(InputError, match="NaN or Inf in the values of 1 on calibration data") as caught:
        static(program, ADDS_INSIDE, [images()], options())
    assert "\n" not in str(caught.value)


def test_a_model_that_fails_on_the_data():
    program = capture(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2)), torch.tensor([[1, 2]]))
    with pytest.raises(InputError, match="fails on calibration batch 1: index out of range") as caught:
        static(program, ADDS_INSIDE, [torch.tensor([[7, 2]])], options())
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_order_of_batches_does_not_matter_to_what_is_found():
    shuffled = batches(6)
    random.Random(0).shuffle(shuffled)
    for name in ("minmax", "percentile", "mse", "entropy"):
        assert run(batches(6), estimator=name) == run(shuffled, estimator=name)


@pytest.mark.parametrize(("estimator", "runs"), [("minmax", 2), ("mse", 2), ("moving-average", 12)])
def test_small_batches_are_run_together_but_for_averages_of_batches(estimator, runs, monkeypatch):
    sizes = []
    run_node = torch.fx.Interpreter.run

    def counting(self, *inputs, **keywords):
        sizes.append(len(inputs[0]))
        return run_node(self, *inputs, **keywords)

    monkeypatch.setattr(torch.fx.Interpreter, "run", counting)
    together = torch.cat([images(1, seed) for seed in range(12)])
    one_by_one = run(list(together.split(1)), estimator=estimator)
    assert len(sizes) == runs
    assert sum(sizes) == 12
    if estimator != "moving-average":
        assert one_by_one == run([together], estimator=estimator)


@pytest.mark.parametrize(
    ("calibration", "match"),
    [
        ([images(1)], "a single input"),
        ([torch.zeros(4, 3, 8, 8)], "the values of x are all the same"),
        ([torch.full((4, 3, 8, 8), 2.0)] * 2, "the values of x are all the same"),
    ],
)
def test_data_that_says_too_little_is_warned_of(calibration, match):
    with pytest.warns(InputWarning, match=match):
        ((scale, _),) = run(calibration).values()
    assert scale.isfinite().all()


@pytest.mark.parametrize(
    "calibration",
    [
        [images(2)],
        [torch.full((2, 3, 8, 8), 2.0), torch.full((2, 3, 8, 8), 3.0)],
        [torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), -1.0)],
        [torch.full((2, 3, 8, 8), 2.0), torch.zeros(2, 3, 8, 8)],
    ],
)
def test_other_data_is_not(calibration, recwarn):
    run(calibration, estimator="moving-average")  # batch by batch
    assert not [one for one in recwarn if one.category is InputWarning]


def test_what_a_relu_cuts_off_behind_an_addition_of_one_for_all():
    """An operand that has no batch of its own, as a parameter has none."""

    class Offset(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.offset = nn.Conv2d(1, 1, 1), nn.Parameter(torch.tensor([[[[2.0]]]]))

        def forward(self, x):
            return torch.relu(self.layer(x) + self.offset)

    model = Offset()
    nn.init.ones_(model.layer.weight)
    nn.init.zeros_(model.layer.bias)
    x = torch.tensor([-9.0, -1.0, 3.0]).reshape(3, 1, 1, 1)
    ((scale, zero_point),) = observe(capture(model, x).module, {("conv2d", UNSIGNED)}, [x], "minmax").values()
    # -9 + 2 is cut off, as all below -2 is.
    assert (scale, zero_point) == choose_parameters(torch.tensor([-2.0]), torch.tensor([3.0]), UNSIGNED)


def test_what_a_relu_cuts_off_behind_an_addition_needs_no_range():
    class Shortcut(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 1)

        def forward(self, x, y):
            return torch.relu(self.layer(x) + y)

    model = Shortcut()
    nn.init.ones_(model.layer.weight)
    nn.init.zeros_(model.layer.bias)
    x, y = (
        torch.tensor(values).reshape(4, 1, 1, 1)
        for values in ([-9.0, -3.0, 2.0, -8.0], [1.0, 4.0, 5.0, -6.0])
    )
    # -9 + 1 and -8 - 6 are cut off; -3 + 4 is not, nor 2 + 5.
    ((scale, zero_point),) = observe(
        capture(model, (x, y)).module, {("conv2d", UNSIGNED)}, [(x, y)], "minmax"
    ).values()
    assert (scale, zero_point) == choose_parameters(torch.tensor([-3.0]), torch.tensor([2.0]), UNSIGNED)


def test_what_a_relu_cuts_off_is_raised_to_zero_at_most():
    class Sum(nn.Module):
        def forward(self, x, y):
            return torch.relu(x * 1 + y)

    x, y = torch.tensor([[-9.0], [-3.0], [-8.0]]), torch.tensor([[1.0], [-4.0], [-6.0]])
    # -9 counts as -1, of which the ReLU makes the same; the others as 0, and not as 4 and 6.
    (found,) = observe(capture(Sum(), (x, y)).module, {("mul", UNSIGNED)}, [(x, y)], "minmax").values()
    assert found == choose_parameters(torch.tensor([-1.0]), torch.zeros(1), UNSIGNED)


def test_sums_and_operands_that_are_read_by_others_need_their_whole_range():
    """What a ReLU cuts off counts where another operator reads it, too."""

    class Sums(nn.Module):
        def forward(self, x, y):
            a, b, c, d = x * 1, x * 1, x * 1, x * 1
            shared = b + y
            return (
                *(torch.relu(a + y), a.exp(), torch.relu(shared), shared.exp()),
                *(torch.relu(torch.add(c, y, alpha=2)), torch.relu(d + y[:, :1])),
            )

    x, y = torch.tensor([[-9.0, 2.0], [1.0, 3.0]]), torch.tensor([[4.0, 4.0], [4.0, 4.0]])
    program = capture(Sums(), (x, y))
    names = [node.name for node in program.module.graph.nodes if node.name.startswith("mul")]
    found = observe(program.module, {(name, UNSIGNED) for name in names}, [(x, y)], "minmax")
    whole = choose_parameters(torch.tensor([-9.0]), torch.tensor([3.0]), UNSIGNED)
    assert len(names) == 4
    assert list(found.values()) == [whole] * 4


class Pooled(nn.Module):
    """What a maximum over windows drops, and what also an addition reads; (N, 3, 8, 8)."""

    def __init__(self, is_read: bool):
        super().__init__()
        self.is_read = is_read

    def forward(self, x):
        x = x.tanh()
        pooled = nn.functional.max_pool2d(x, 3, 2, 1)
        return (pooled, x + 1) if self.is_read else pooled


@pytest.mark.parametrize("is_read", [False, True])
@pytest.mark.parametrize("estimator", ["minmax", "mse"])
def test_values_that_a_maximum_over_windows_drops_need_no_range(estimator, is_read):
    module, tanh = capture(Pooled(is_read), images()).module, torch.cat(batches()).tanh()
    seen = tanh if is_read else nn.functional.max_pool2d(tanh, 3, 2, 1)
    ((scale, zero_point),) = observe(module, {("tanh", UNSIGNED)}, batches(), estimator).values()
    statistics = Statistics()
    statistics.add(seen, with_histogram=True)
    ends = (torch.tensor([end]) for end in ESTIMATORS[estimator](statistics, UNSIGNED))
    assert (scale, zero_point) == choose_parameters(*ends, UNSIGNED)
    if not is_read:  # a clip of what is pooled is the pool of what is clipped
        ends = int(zero_point), 0, 255
        clipped = torch.fake_quantize_per_tensor_affine(tanh, float(scale), *ends)
        behind = torch.fake_quantize_per_tensor_affine(seen, float(scale), *ends)
        assert torch.equal(nn.functional.max_pool2d(clipped, 3, 2, 1), behind)


def test_values_that_a_model_fills_in_need_no_range():
    class Masked(nn.Module):
        def forward(self, x):
            return (x * 2).masked_fill(x > 1, -1e4).amax(1)

    x = torch.tensor([[-1.5, 0.5, 3.0], [1.0, 7.0, 0.0]])
    module = capture(Masked(), x).module
    (found,) = observe(module, {("masked_fill", UNSIGNED)}, [x, x + 9], "minmax").values()
    assert found == choose_parameters(torch.tensor([-3.0]), torch.tensor([2.0]), UNSIGNED)


def test_sources_of_one_group_have_one_range():
    class Halves(nn.Module):
        def forward(self, x):
            return x * 2, x * -3, x + 100

    x = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    module = capture(Halves(), x).module
    sources = {(name, UNSIGNED) for name in ("mul", "mul_1", "add")}
    found = observe(module, sources, [x], "minmax", shared={"mul": "one", "mul_1": "one"})
    both = choose_parameters(torch.tensor([-6.0]), torch.tensor([4.0]), UNSIGNED)
    assert found["one", UNSIGNED] == both
    assert found["mul", UNSIGNED] == choose_parameters(torch.zeros(1), torch.tensor([4.0]), UNSIGNED)
    assert found["add", UNSIGNED] == choose_parameters(torch.zeros(1), torch.tensor([102.0]), UNSIGNED)


class Counting(torch.fx.Interpreter):
    """The rows of every run."""

    def __init__(self, module):
        super().__init__(module)
        self.rows = []

    def run(self, *inputs):
        self.rows.append(len(inputs[0]))
        return super().run(*inputs)


@pytest.mark.parametrize(
    ("together", "items", "runs"),
    [
        (True, None, [6, 6]),
        (False, None, [2] * 6),
        (False, 5, [2, 2, 2]),
        (False, 6, [2, 2, 2]),
        (True, 7, [6, 2]),
        (True, 6, [6]),
    ],
)
def test_batches_are_run_together_up_to_so_many_items(together, items, runs, monkeypatch):
    monkeypatch.setattr("zeropoint.passes.observe.GATHERED", 7)
    monkeypatch.setattr("zeropoint.passes.observe.SMALL", 0)
    run = Counting(residual().module)
    assert run_on(run, batches(6), together=together, items=items) == sum(runs)
    assert run.rows == runs


@pytest.mark.parametrize(("sizes", "rows"), [((16,), [64, 16]), ((128,), [16] * 5), ((3, 32, 32), [8] * 10)])
def test_more_items_are_run_together_if_they_are_small(sizes, rows):
    x = torch.ones(2, *sizes)
    run = Counting(capture(nn.ReLU(), x).module)
    assert run_on(run, [x] * 40, together=True) == 80
    assert run.rows == rows


def test_batches_of_a_fixed_size_are_run_one_by_one():
    class Fixed(nn.Module):
        def forward(self, x, y):
            return x + 1, y.reshape(4)

    inputs = torch.ones(2, 3), torch.ones(2, 2)
    program = capture(Fixed(), inputs)
    run = Counting(program.module)
    run_on(run, [inputs] * 3, together=True)
    assert run.rows == [2, 2, 2]


def test_a_warning_counts_the_values_that_are_all_the_same():
    class Constants(nn.Module):
        def forward(self, x):
            return x * 0, x.clamp(5, 6), x * 2

    x = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    module = capture(Constants(), x).module
    for names, told in ((["mul", "mul_1"], "of mul are"), (["clamp", "mul", "mul_1"], "and 1 more are")):
        with pytest.warns(InputWarning, match=told):
            observe(module, [(name, UNSIGNED) for name in names], [x], "minmax")
