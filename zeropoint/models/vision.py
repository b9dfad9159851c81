"""torchvision, which can be imported even if its wheel and that of torch are of different builds."""

import functools
import importlib
import inspect
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from zeropoint.errors import InputError

BLOCK = 256  # boxes that are compared with each other at once
_KEPT: list[torch.library.Library] = []  # operator schemas live as long as the Library that declares them


@functools.cache
def torchvision() -> ModuleType:
    """The torchvision package. Raises InputError if it is not installed.

    Its CUDA wheel cannot load its compiled operators beside a CPU-only torch, and then its import fails as it
    registers shapes for operators that nobody declared. Declared here they let it import; detection models
    call ``nms``, which gets a kernel of PyTorch operators. Deformable convolutions do not run.
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
    package = importlib.import_module("torchvision")
    library.impl("nms", _nms, "CPU")
    package.extension._has_ops = lambda: True  # what its own ``nms`` asks before it calls the operator
    # Without the compiled operator it compiles its own in PyTorch, which takes a minute at the first call.
    regions: Any = sys.modules["torchvision.ops.roi_align"]
    regions._roi_align = inspect.unwrap(regions._roi_align)
    return package


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The indices (K,) of the boxes (N, 4) that overlap none of a higher score by more than the threshold."""
    iou = torchvision().ops.box_iou
    left = scores.argsort(descending=True, stable=True)
    kept = [left[:0]]
    while len(left):
        block, left = left[:BLOCK], left[BLOCK:]
        overlaps = iou(boxes[block], boxes[block]) > iou_threshold
        chosen = torch.ones(len(block), dtype=torch.bool)
        for row, others in enumerate(overlaps, start=1):
            if chosen[row - 1]:
                chosen[row:] &= ~others[row:]
        kept.append(block[chosen])
        left = left[~(iou(boxes[kept[-1]], boxes[left]) > iou_threshold).any(0)]
    return torch.cat(kept)
