"""predict.py prepares images as torchvision does, to the bit."""

import numpy as np
import pytest
from PIL import Image

from zeropoint.data.images import prepared
from zeropoint.models.source import Preprocessing
from zeropoint.shipping.manifest import as_data


@pytest.mark.parametrize("resize", [24, 37, (20, 30)])
@pytest.mark.parametrize("crop", [(16, 16), (17, 24), (40, 33)])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_it_is_that_of_torchvision(scripts, resize, crop, interpolation):
    how = Preprocessing(resize, crop, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), interpolation)
    generator = np.random.default_rng(0)
    for size in ((31, 50), (50, 31), (24, 24), (101, 20)):
        image = Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8))
        found = scripts.predict.preprocess(image, as_data(how))
        assert np.array_equal(found[0], prepared(how)(image).numpy())


def test_grey_and_blue_first(scripts):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    plain = as_data(Preprocessing(8, (8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    found = scripts.predict.preprocess(image, plain)
    swapped = scripts.predict.preprocess(image, plain | {"channels": "BGR"})
    assert np.array_equal(swapped, found[:, ::-1])
    grey = scripts.predict.preprocess(image, plain | {"channels": "L", "mean": [0.5], "std": [0.5]})
    assert np.array_equal(grey[0, 0], (np.asarray(image.convert("L"), np.float32) / 255 - 0.5) / 0.5)
