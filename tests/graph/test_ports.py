"""Names of free sizes, as artefacts and manifests state them."""

import pytest
import torch
from networks import Attention, Pooled, images, randomized, residual
from torch import nn

from zeropoint.errors import InputWarning
from zeropoint.graph.capture import capture
from zeropoint.graph.ports import Port, ports


def test_a_free_batch_is_called_batch():
    (x,), (output,) = ports(residual())
    assert x == Port("x", "float32", ("batch", 3, 8, 8))
    assert output == Port("output", "float32", ("batch", 5))


def test_free_places_of_images_are_height_and_width_and_outputs_follow():
    network = randomized(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2)))
    with pytest.warns(InputWarning):  # that channels are not free
        (x,), (output,) = ports(capture(network, torch.randn(2, 3, 16, 12), free_sizes=True))
    assert x.shape == ("batch", 3, "height", "width")
    assert output.shape[:2] == ("batch", 4)
    assert ["height" in str(output.shape[2]), "width" in str(output.shape[3])] == [True, True]


def test_inputs_of_one_length_share_its_name():
    tokens, mask = torch.randint(0, 50, (2, 7)), torch.ones(2, 7)
    (first, second), _ = ports(capture(randomized(Attention()), (tokens, mask), free_sizes=True))
    assert (first.dtype, second.dtype) == ("int64", "float32")
    assert first.shape == second.shape == ("batch", "length")


def test_fixed_sizes_are_numbers():
    (x,), _ = ports(capture(randomized(Pooled()), images(2)))
    assert x.shape == ("batch", 3, 8, 8)
