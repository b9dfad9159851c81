"""The digits data set of scikit-learn: 1797 handwritten digits that need no download."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from zeropoint.data.loaders import Loaders
from zeropoint.errors import InputError

CALIBRATION, VALIDATION, EVALUATION = 256, 197, 600  # images; 1000 are left to train on
MEAN, STD = 0.305, 0.324  # of all pixels, upscaled and in [0, 1]


def digits(batch_size: int, seed: int) -> Loaders:
    """Images float32 (N, 1, 32, 32) of mean 0 and deviation 1, labels int64 (N,).

    The split is stratified and does not depend on ``seed``: the demo networks were never trained on an
    evaluation image. ``seed`` chooses the calibration images among the training ones, and the training order.
    Raises InputError if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError as error:
        raise InputError("scikit-learn is not installed; run: pip install 'zeropoint[digits]'") from error

    small, classes = load_digits(return_X_y=True)
    small = torch.from_numpy(small).float().reshape(-1, 1, 8, 8) / 16  # sixteen grey levels
    images: Any = (F.interpolate(small, size=(32, 32), mode="bilinear") - MEAN) / STD
    labels: Any = torch.from_numpy(classes)

    def held_out(indices: Any, size: int) -> Any:
        return train_test_split(indices, test_size=size, stratify=classes[indices], random_state=0)

    rest, evaluation = held_out(np.arange(len(classes)), EVALUATION)
    train, validation = held_out(rest, VALIDATION)
    generator = torch.Generator().manual_seed(seed)
    calibration = torch.from_numpy(train)[torch.randperm(len(train), generator=generator)[:CALIBRATION]]

    def labelled(indices: np.ndarray) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(zip(images[indices].split(batch_size), labels[indices].split(batch_size), strict=True))

    return Loaders(
        name="digits",
        calibration=images[calibration].split(batch_size),
        evaluation=labelled(evaluation),
        train=DataLoader(
            TensorDataset(images[train], labels[train]), batch_size, shuffle=True, generator=generator
        ),
        validation=labelled(validation),
        mean=(MEAN,),
        std=(STD,),
        description=f"{EVALUATION} images to evaluate and {len(train):,} to train on in 10 classes,"
        f" scaled to 32x32, mean ({MEAN}), std ({STD})",
    )
