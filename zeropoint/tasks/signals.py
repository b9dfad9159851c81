"""Regression: of images, of sound, and of numbers."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from zeropoint.errors import InputError
from zeropoint.tasks.metric import Measure, Meter, Metric, Prepare, doubled, library
from zeropoint.tasks.outputs import FIX, described, main, values
from zeropoint.tasks.task import Task


def _images(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W)."""
    found = values(outputs, targets)
    if found[0].dim() != 4:
        raise InputError(f"the outputs are {described(found[0])}, not images (N, C, H, W); {FIX}")
    return found


def _peak(images: Tensor) -> float:
    """The range of the values of images that are from 0 to 1, from -1 to 1, or from 0 to 255."""
    low, high = float(images.min()), float(images.max())
    if low < -1 or high > 255 or (low < 0 and high > 1):
        raise InputError(f"the targets reach from {low:g} to {high:g}, in no usual range of images; {FIX}")
    return 2.0 if low < 0 else 1.0 if high <= 1 else 255.0


def _of_images(name: str) -> Any:
    def start(outputs: Any, targets: Any) -> Meter:
        made = getattr(library("torchmetrics.image"), name)
        return doubled(made(data_range=_peak(_images(outputs, targets)[1])))

    return start


def _reference(read: Prepare) -> Prepare:
    """As ``read``, with the outputs of the float network as the targets."""
    return lambda outputs, pair: read(outputs, pair[0])


def _psnr_to_float(_: Any, pair: Any) -> Meter:
    """The peak is the range of the float network's values in the first batch."""
    reference = main(pair[0])
    made = library("torchmetrics.image").PeakSignalNoiseRatio
    return doubled(made(data_range=float(reference.max() - reference.min()) or 1.0))


def _si_sdr(*_: Any) -> Meter:
    return doubled(library("torchmetrics.audio").ScaleInvariantSignalDistortionRatio())


def _numbers(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Values (N, D)."""
    predicted, wanted = values(outputs, targets)
    return predicted.reshape(len(predicted), -1), wanted.reshape(len(predicted), -1)


def _absolute(*_: Any) -> Meter:
    return doubled(library().MeanAbsoluteError())


def _r2(*_: Any) -> Meter:
    return doubled(library().R2Score())


def _mean_square(outputs: Any, targets: Any) -> Tensor:
    return F.mse_loss(*values(outputs, targets))


IMAGE = Task(
    "image-regression",
    metrics=(Metric(Measure("PSNR", "dB"), _of_images("PeakSignalNoiseRatio"), _images),),
    more=(Metric(Measure("SSIM"), _of_images("StructuralSimilarityIndexMeasure"), _images),),
    fidelity=Metric(
        Measure("PSNR to float32", "dB"), _psnr_to_float, _reference(_images), needs_targets=False
    ),
    loss=_mean_square,
)
AUDIO = Task(
    "audio-regression",
    metrics=(Metric(Measure("SI-SDR", "dB"), _si_sdr, values),),
    fidelity=Metric(Measure("SI-SDR to float32", "dB"), _si_sdr, _reference(values), needs_targets=False),
    loss=_mean_square,
)
REGRESSION = Task(
    "regression",
    metrics=(
        Metric(Measure("MAE", higher_is_better=False), _absolute, _numbers),
        Metric(Measure("R2"), _r2, _numbers),
    ),
    loss=_mean_square,
)
