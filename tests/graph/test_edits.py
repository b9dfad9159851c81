import torch
from networks import images, randomized
from torch import nn

from zeropoint.graph import edits as fx
from zeropoint.graph.capture import capture


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())

    def forward(self, x):
        return self.body(self.body(x)) + 1


def program():
    return capture(randomized(Nested()), images())


def test_a_copy_shares_tensors_but_not_the_graph():
    original = program().module
    copy = fx.copy(original)
    assert (
        copy.body.get_submodule("0").weight.data_ptr() == original.body.get_submodule("0").weight.data_ptr()
    )
    fx.set_tensor(copy, "body.0.weight", torch.zeros(3, 3, 1, 1))
    copy.graph.erase_node(copy.graph.output_node())
    assert original.body.get_submodule("0").weight.any()
    assert torch.isfinite(original(images())).all()


def test_names_are_those_of_the_users_modules():
    assert fx.module_names(program().module) == ["add", "body.0", "body.1"]


def test_set_and_remove_tensors():
    module = fx.copy(program().module)
    name = fx.set_tensor(module, "new.deep.tensor", torch.ones(2))
    assert torch.equal(module.get_submodule("new.deep").tensor, torch.ones(2))
    assert name == "new.deep.tensor"
    fx.remove_unused(module)
    assert not hasattr(module, "new")
    assert set(module.state_dict()) == {"body.0.weight", "body.0.bias"}


def test_replace_argument_fills_what_was_left_out():
    module = fx.copy(program().module)
    node = next(node for node in module.graph.nodes if node.name == "conv2d")
    node.args = node.args[:2]
    fx.replace_argument(node, 3, [2, 2])
    assert node.args[2:] == (None, [2, 2])
