"""torchvision's models by name, of every task but those that are quantized already."""

from typing import Any

import torch
from torch import Tensor, nn

from zeropoint.errors import InputError, closest
from zeropoint.models.source import Inputs, Preprocessing, Promise, RandomInputs, Source, normal, settled
from zeropoint.models.vision import torchvision
from zeropoint.progress import is_watched

TASKS = ("classification", "segmentation", "detection", "video", "optical_flow")
PROMISED = {"acc@1": "top-1", "miou": "mIoU", "box_map": "mAP"}  # torchvision's names of metrics
FRAMES = 16  # of a video, at least
FLOW_SIDE = 128  # pixels; the smallest images that RAFT takes
DETECTION_SIDE = 320  # pixels


def names() -> dict[str, str]:
    """The task of each model. Raises InputError if torchvision is not installed."""
    models = torchvision().models
    modules = {task: getattr(models, task, models) for task in TASKS}
    return {name: task for task, module in modules.items() for name in models.list_models(module=module)}


def source(name: str, weights: str) -> Source:
    """The model ``name`` with ``weights``: default, none (random), or the name of some of its own.

    Raises InputError for an unknown name or weights, and a download that fails.
    """
    models, known = torchvision().models, names()
    if name not in known:
        raise InputError(f"unknown model torchvision/{name}; {closest(name, known)}")
    members = models.get_model_weights(name)
    if weights not in ("default", "none") and weights not in members.__members__:
        valid = ["default", "none", *members.__members__]
        raise InputError(f"unknown weights {weights} for torchvision/{name}; {closest(weights, valid)}")
    described = members["DEFAULT" if weights in ("default", "none") else weights]
    chosen = None if weights == "none" else described
    backbone = {"weights_backbone": None} if known[name] in ("segmentation", "detection") else {}
    try:
        network = models.get_model(name, weights=chosen, progress=is_watched(), **backbone)
    except OSError as error:  # urllib's errors are OSErrors, and so is a full disk
        fix = "give --weights none, or --weights with the path of a state dict"
        raise InputError(f"cannot get the weights of torchvision/{name}: {error}; {fix}") from error
    preprocessing = _preprocessing(described.transforms(), network)
    inputs = _inputs(known[name], described.meta, preprocessing)
    return Source(settled(network, inputs) if chosen is None else network, inputs, preprocessing)


def promise(name: str, weights: str) -> Promise | None:
    """What the weights of a model reach by torchvision's own account, None if it gives none."""
    members = torchvision().models.get_model_weights(name)
    described = members["DEFAULT" if weights == "default" else weights]
    for data, values in described.meta.get("_metrics", {}).items():
        for key, metric in PROMISED.items():
            if key in values:
                return Promise(metric, values[key] / 100, data)
    return None


def _preprocessing(preset: Any, network: nn.Module) -> Preprocessing | None:
    """What the weights were evaluated with, None if the preset does not say it.

    A transformer's images are of its size.
    """
    if not hasattr(preset, "mean"):
        return None  # a detector scales and resizes images itself
    resize = preset.resize_size
    height, width = (list(getattr(preset, "crop_size", resize)) * 2)[:2]
    resize = int(resize[0]) if len(resize) == 1 else (int(resize[0]), int(resize[1]))
    if side := getattr(network, "image_size", None):
        height, width, resize = side, side, max(side, resize)
    mean, std = tuple(preset.mean), tuple(preset.std)
    return Preprocessing(resize, (height, width), mean, std, preset.interpolation.value)


def _inputs(task: str, meta: dict[str, Any], preprocessing: Preprocessing | None) -> RandomInputs:
    height, width = (preprocessing or Preprocessing()).crop
    if task == "video":
        return normal(3, max(FRAMES, meta.get("min_temporal_size", 0)), height, width)
    if task == "optical_flow":
        return _pair
    return _images if task == "detection" else normal(3, height, width)


def _pair(items: int, generator: torch.Generator | None) -> Inputs:
    """Two images each (N, 3, H, W): the first and the second frame."""
    first, second = torch.randn(2, items, 3, FLOW_SIDE, FLOW_SIDE, generator=generator)
    return first, second


def _images(items: int, generator: torch.Generator | None) -> Inputs:
    """A list of images (3, H, W) with values in [0, 1], as the only argument."""
    images: list[Tensor] = list(torch.rand(items, 3, DETECTION_SIDE, DETECTION_SIDE, generator=generator))
    return (images,)
