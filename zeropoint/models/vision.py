"""torchvision, which can be imported even if its wheel and that of torch are of different builds."""

import functools
import importlib
import sys
from types import ModuleType
from typing import Any

import torch

from zeropoint.errors import InputError

_KEPT: list[torch.library.Library] = []  # operator schemas live as long as the Library that declares them


@functools.cache
def torchvision() -> ModuleType:
    """The torchvision package. Raises InputError if it is not installed.

    Its CUDA wheel cannot load its compiled operators beside a CPU-only torch, and then its import fails as it
    registers shapes for operators that nobody declared. Declared here without kernels, they let everything
    import and run that does not call them: models of classification, transforms, datasets.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise InputError("torchvision is not installed; run: pip install 'zeropoint[models]'") from error
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half-imported
    declare: Any = torch.library.Library  # which has no types
    library = declare("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)
    return importlib.import_module("torchvision")


def classifiers() -> list[str]:
    """The names of torchvision's image classifiers. Raises InputError if it is not installed."""
    models = torchvision().models
    names: list[str] = models.list_models(
        module=models
    )  # of this module alone, not those of detection or video
    return names
