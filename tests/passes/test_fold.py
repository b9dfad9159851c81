import copy

import pytest
import torch
from networks import images, randomized
from torch import nn
from torch.nn import functional as F

from zeropoint.graph.capture import capture
from zeropoint.graph.operators import aten
from zeropoint.passes.fold import fold_affine

LAYERS = {
    "conv1d": (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), torch.randn(2, 4, 9)),
    "conv1d groups": (nn.Conv1d(4, 6, 3, groups=2, bias=False), nn.BatchNorm1d(6), torch.randn(2, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), torch.randn(2, 4, 6, 6)),
    "conv2d padded": (nn.Conv2d(4, 6, 3, padding="same"), nn.BatchNorm2d(6), torch.randn(2, 4, 6, 6)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4), torch.randn(2, 4, 6, 6)),
    "conv3d": (nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3), torch.randn(2, 2, 4, 4, 4)),
    "transpose1d": (nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6), torch.randn(2, 4, 5)),
    "transpose2d": (nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), torch.randn(2, 4, 4, 4)),
    "transpose2d groups": (
        nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False),
        nn.BatchNorm2d(6),
        torch.randn(2, 4, 4, 4),
    ),
    "linear": (nn.Linear(4, 6), nn.BatchNorm1d(6), torch.randn(3, 4)),
    "no affine": (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False), torch.randn(2, 4, 6, 6)),
    "large epsilon": (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, eps=0.5), torch.randn(2, 4, 6, 6)),
}


def norms(program):
    return [node for node in program.module.graph.nodes if node.target is aten.batch_norm.default]


def check(model, x, left=0):
    """Folds and compares with eager float64; the model itself must not change."""
    model = randomized(model)
    state = copy.deepcopy(model.state_dict())
    program = capture(model, x)
    code = program.module.code
    folded = fold_affine(program)
    assert len(norms(folded)) == left
    expected = copy.deepcopy(model).double()(x.double())
    torch.testing.assert_close(folded(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert program.module.code == code
    torch.testing.assert_close(program(x), model(x))
    return folded


@pytest.mark.parametrize("name", LAYERS)
def test_against_float64(name):
    layer, norm, x = LAYERS[name]
    check(nn.Sequential(layer, norm), x)


def test_by_hand():
    model = nn.Sequential(nn.Conv1d(1, 1, 1), nn.BatchNorm1d(1, eps=0.25))
    with torch.no_grad():
        for tensor, value in (
            (model[0].weight, 2.0),
            (model[0].bias, 3.0),
            (model[1].weight, 4.0),
            (model[1].bias, 5.0),
            (model[1].running_mean, 1.0),
            (model[1].running_var, 3.75),
        ):
            tensor.fill_(value)
    folded = fold_affine(capture(model.eval(), torch.ones(2, 1, 1)))
    state = folded.module.state_dict()
    # gamma / sqrt(variance + epsilon) = 4 / 2 = 2: weight 2 · 2, bias (3 - 1) · 2 + 5.
    assert state["0.weight"].item() == 4.0
    assert state["0.bias"].item() == 9.0


class OneConvolutionTwoNorms(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.one, self.two = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.two(self.conv(self.one(self.conv(x))))


class TwoWeightsInOneModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.empty(4, 3, 1, 1))
        self.second = nn.Parameter(torch.empty(4, 3, 1, 1))
        self.bias = nn.Parameter(torch.empty(4, 1, 1))
        self.one, self.two = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.one(F.conv2d(x, self.first)) + self.two(F.conv2d(x, self.second)) + self.bias


class SharedBias(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.two.bias = self.one.bias
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.two(self.norm(self.one(x)))


@pytest.mark.parametrize("model", [OneConvolutionTwoNorms(), TwoWeightsInOneModule(), SharedBias()])
def test_shared_and_functional_weights(model):
    check(model, images())


class Moved(nn.Module):
    """A layer whose output is moved before the batch norm reads it, and maybe shaped as before after it."""

    def __init__(self, layer, norm, move, back=lambda y, before: y):
        super().__init__()
        self.layer, self.norm, self.move, self.back = layer, norm, move, back

    def forward(self, x):
        y = self.layer(x)
        return torch.relu(self.back(self.norm(self.move(y)), y))


TOKENS, PIXELS = torch.randn(2, 5, 4), torch.randn(2, 4, 5, 5)
MOVED = {
    "tokens as items": (
        nn.Linear(4, 6),
        6,
        TOKENS,
        lambda y: y.flatten(0, 1),
        lambda y, was: y.reshape_as(was),
    ),
    "tokens viewed as items": (
        nn.Linear(4, 6),
        6,
        TOKENS,
        lambda y: y.view(-1, 6),
        lambda y, was: y.view_as(was),
    ),
    "tokens last": (nn.Linear(4, 6), 6, TOKENS, lambda y: y.transpose(1, 2), lambda y, was: y.mT),
    "tokens last, sizes alike": (nn.Linear(4, 5), 5, TOKENS, lambda y: y.permute(0, 2, 1)),
    "heads apart": (nn.Linear(4, 6), 6, TOKENS, lambda y: y.unflatten(0, (1, 2)).reshape(-1, 6)),
    "pixels in a row": (nn.Conv2d(4, 6, 2), 6, PIXELS, lambda y: y.flatten(2)),
    "one pixel": (nn.Conv2d(4, 6, 5), 6, PIXELS, lambda y: y.squeeze(-1).squeeze(-1)),
    "an axis more": (nn.Conv1d(4, 6, 1), 6, torch.randn(2, 4, 5), lambda y: y.unsqueeze(3).squeeze(3)),
}


@pytest.mark.parametrize("name", MOVED)
def test_norms_of_moved_values_against_float64(name):
    layer, width, x, *moves = MOVED[name]
    check(Moved(layer, nn.BatchNorm1d(width), *moves), x)


MOVED_APART = {
    "of channels and pixels together": (
        nn.Conv2d(4, 6, 4),
        nn.BatchNorm1d(24),
        PIXELS,
        lambda y: y.flatten(1),
    ),
    "of tokens, sizes alike": (nn.Linear(4, 5), nn.BatchNorm2d(5), TOKENS, lambda y: y.unsqueeze(3)),
    "of a part": (nn.Linear(4, 6), nn.BatchNorm1d(3), torch.randn(2, 4), lambda y: y[:, :3]),
    "of rows of a picture without a batch": (
        nn.Conv2d(4, 5, 1),
        nn.BatchNorm1d(5),
        PIXELS[0],
        lambda y: y,
    ),
    "of what is read twice": (
        nn.Linear(4, 6),
        nn.BatchNorm1d(6),
        TOKENS,
        lambda y: y.mT,
        lambda y, was: y.mT + was,
    ),
}


@pytest.mark.parametrize("name", MOVED_APART)
def test_norms_of_other_axes_stay(name):
    layer, norm, x, *moves = MOVED_APART[name]
    check(Moved(layer, norm, *moves), x, left=1)


class UsedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.conv(x)
        return self.norm(x) + x


class Sequence(nn.Module):
    """A batch norm over axis 1, of the very length of the linear layer's output, axis 2."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 5), nn.BatchNorm1d(5)

    def forward(self, x):
        return self.norm(self.linear(x))


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (UsedTwice(), images()),
        (Sequence(), torch.randn(2, 5, 4)),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), images()),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), images()),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), images()),
    ],
)
def test_what_cannot_be_folded_stays(model, x):
    check(model, x, left=1)


def test_addmm():
    class AddMM(nn.Module):
        def __init__(self, beta):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.empty(6, 6)), nn.Parameter(torch.empty(6))
            self.norm, self.beta = nn.BatchNorm1d(6), beta

        def forward(self, x):
            return self.norm(torch.addmm(self.bias, x, self.weight, beta=self.beta))

    check(AddMM(1), torch.randn(3, 6))
    check(AddMM(2), torch.randn(3, 6))


@pytest.mark.parametrize("pattern", ["0", "1", "*"])
def test_no_fuse_keeps_them_apart(pattern):
    program = capture(randomized(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))), images())
    kept = fold_affine(program, (pattern,))
    assert len(norms(kept)) == 1
    assert torch.equal(kept(images()), program(images()))
    assert len(norms(fold_affine(program, ("2",)))) == 0


AFFINE = {
    "product": lambda y, constant: y * constant,
    "product, constant first": lambda y, constant: constant * y,
    "quotient": lambda y, constant: y / constant,
    "sum": lambda y, constant: y + constant,
    "sum, constant first": lambda y, constant: constant + y,
    "difference": lambda y, constant: y - constant,
    "several": lambda y, constant: (y * constant - 0.5) / 3,
}


class Affine(nn.Module):
    """A layer, and what is affine in its output, with a constant for each channel or one for all."""

    def __init__(self, layer, operator, shape=(), move=lambda y: y):
        super().__init__()
        self.layer, self.operator, self.move = layer, operator, move
        self.constant = nn.Parameter(torch.rand(shape) + 0.5) if shape else 0.25

    def forward(self, x):
        return torch.relu(self.operator(self.move(self.layer(x)), self.constant))


def affine(program):
    names = {"mul", "div", "add", "sub"}
    return [
        node
        for node in program.module.graph.nodes
        if str(node.target).split(".")[1:2] in [[n] for n in names]
    ]


def check_affine(model, x, left=0):
    program = capture(model.eval(), x)
    folded = fold_affine(program)
    assert len(affine(folded)) == left
    torch.testing.assert_close(
        folded(x).double(), copy.deepcopy(model).double()(x.double()), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(program(x), model(x))
    return folded


@pytest.mark.parametrize("operator", AFFINE)
@pytest.mark.parametrize("of", ["one", "each"])
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "no affine"])
def test_constants_against_float64(name, of, operator):
    layer, _, x = LAYERS[name]
    outputs = layer(x)
    axes = outputs.dim() - 2
    check_affine(Affine(layer, AFFINE[operator], (outputs.shape[1], *[1] * axes) if of == "each" else ()), x)


def test_constants_by_hand():
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    model = Affine(layer, lambda y, constant: (y * constant + 1) / 2, (2,))
    with torch.no_grad():
        model.constant.copy_(torch.tensor([10.0, 0.0]))
    state = check_affine(model, torch.randn(3, 2)).module.state_dict()
    assert state["layer.weight"].tolist() == [[5.0, 10.0], [0.0, 0.0]]
    assert state["layer.weight__bias"].tolist() == [0.5, 0.5]


def test_constants_of_moved_channels():
    tokens = Affine(nn.Conv2d(4, 6, 2), AFFINE["product"], (6,), lambda y: y.flatten(2).transpose(1, 2))
    check_affine(tokens, PIXELS)
    pixels = Affine(nn.Linear(4, 6), AFFINE["product"], (6, 1), lambda y: y.mT)
    check_affine(pixels, TOKENS)
    check_affine(Affine(nn.Linear(4, 6), AFFINE["product"], (), lambda y: y.flatten(1)), TOKENS)


class Residual(nn.Module):
    """The end of a block of ConvNeXt or CaiT."""

    def __init__(self, again):
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)
        self.scale, self.again = nn.Parameter(torch.rand(4)), again

    def forward(self, x):
        for _ in range(1 + self.again):
            x = x + self.scale * self.two(torch.relu(self.one(self.norm(x))))
        return x


def test_the_scale_of_a_block():
    check_affine(Residual(0), TOKENS, left=1)  # the residual sum


def test_layers_of_a_shared_weight_keep_it():
    check_affine(Residual(1), TOKENS, left=4)


def test_a_layer_read_twice_stays():
    check_affine(Affine(nn.Linear(4, 6), lambda y, constant: y * constant + y, (6,)), TOKENS, left=2)


KEPT_CONSTANTS = {
    "for each token": (nn.Linear(4, 6), (5, 1), AFFINE["product"]),
    "for each value": (nn.Linear(4, 6), (5, 6), AFFINE["sum"]),
    "of more axes": (nn.Linear(4, 6), (2, 1, 1, 6), AFFINE["sum"]),
    "the subtrahend": (nn.Linear(4, 6), (6,), lambda y, constant: constant - y),
    "the dividend": (nn.Linear(4, 6), (6,), lambda y, constant: constant / (y.abs() + 1)),
    "infinite": (nn.Linear(4, 6), (6,), lambda y, constant: y + torch.tensor([0.0] * 5 + [-torch.inf])),
}


@pytest.mark.parametrize("name", KEPT_CONSTANTS)
def test_other_constants_stay(name):
    layer, shape, operator = KEPT_CONSTANTS[name]
    model = Affine(layer, operator, shape)
    folded = fold_affine(capture(model.eval(), TOKENS))
    assert len(affine(folded)) >= 1
    torch.testing.assert_close(folded(TOKENS), model(TOKENS))


def test_what_is_folded_into_a_bias_is_recorded_as_float32():
    """ONNX's exporter declares what is recorded: a dynamic layer ended in a type error."""
    model = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).eval()
    folded = fold_affine(capture(model, torch.randn(4, 16)))
    values = [node.meta["val"] for node in folded.module.graph.nodes if node.op != "output"]
    assert {value.dtype for value in values if isinstance(value, torch.Tensor)} == {torch.float32}
