"""ResNet-18 for images of 32 pixels, and the images to train and judge it on, by names that zeropoint takes.

    zeropoint train benchmarks/resnet18.py:make_model --data benchmarks/resnet18.py:make_loaders ...

The images are those of the folder in the environment variable ``DATA`` (see trained.py), by default
``../shared/data`` beside the repository.
"""

import os
from pathlib import Path
from typing import Any

import trained
from torch import Tensor, nn

import zeropoint.models

FOLDER = Path(os.environ.get("DATA", Path(__file__).parents[2] / "shared" / "data"))
CLASSES = 10


def make_model() -> nn.Module:
    """ResNet-18 without weights: a 3x3 first convolution of stride 2, no max pooling, ten classes.

    He et al. 2015, section 4.2, use a 3x3 first convolution for 32 pixels; stride 2 makes an epoch three
    times as fast as stride 1.
    """
    model: Any = zeropoint.models.resolve("torchvision/resnet18", "none")
    model.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    model.maxpool = nn.Identity()
    model.fc = nn.Linear(512, CLASSES)
    return model


def make_loaders() -> dict[str, Any]:
    """256 images to calibrate on, 10,000 to train on and 2,000 to judge, none of them in two parts."""
    source = trained.read(str(FOLDER))
    return {
        "calibration": trained.calibration(source, "resnet20"),
        "train": trained.training(source, "resnet20", batch=64),
        "evaluation": trained.scored(source, "resnet20"),
    }


def held_out() -> list[tuple[Tensor, Tensor]]:
    """512 labelled images to choose settings by; half of them calibrate, too, without labels."""
    images, labels = trained.read(str(FOLDER)).load_images("calibration", 32)
    return list(zip(images.split(64), labels.split(64), strict=True))
