"""torchvision: the smallest network of every family and task, with random weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from zeropoint.models.vision import torchvision

from .spec import Architecture, Inputs, Noise, image

CLASSIFIERS = {  # and the side of the images
    "alexnet": 64, "convnext_tiny": 64, "densenet121": 64, "efficientnet_b0": 64, "efficientnet_v2_s": 64,
    "googlenet": 64, "inception_v3": 96, "maxvit_t": 224, "mnasnet0_5": 64, "mobilenet_v2": 64,
    "mobilenet_v3_large": 64, "mobilenet_v3_small": 64, "regnet_x_400mf": 64, "regnet_y_400mf": 64,
    "resnet18": 64, "resnet50": 64, "resnext50_32x4d": 64, "shufflenet_v2_x0_5": 64, "squeezenet1_1": 64,
    "swin_t": 64, "swin_v2_t": 64, "vgg11": 64, "vgg11_bn": 64, "vit_b_32": 64, "wide_resnet50_2": 64,
}  # fmt: skip
SEGMENTATION = (
    "lraspp_mobilenet_v3_large",
    "deeplabv3_mobilenet_v3_large",
    "fcn_resnet50",
    "deeplabv3_resnet50",
)
VIDEO = {
    "mc3_18": (8, 64), "r3d_18": (8, 64), "r2plus1d_18": (8, 64), "s3d": (16, 224), "mvit_v2_s": (16, 224),
    "swin3d_t": (8, 64),
}  # fmt: skip
DETECTION = {
    "ssdlite320_mobilenet_v3_large": 128, "fasterrcnn_mobilenet_v3_large_320_fpn": 128,
    "fcos_resnet50_fpn": 128, "retinanet_resnet50_fpn": 128, "fasterrcnn_resnet50_fpn": 128,
    "ssd300_vgg16": 300,
}  # fmt: skip
HEADS = {  # of the second stage: names of a detector and of its part, which reads features of a region
    "maskrcnn_resnet50_fpn": ("mask_head", 14),
    "keypointrcnn_resnet50_fpn": ("keypoint_head", 14),
    "fasterrcnn_resnet50_fpn_v2": ("box_head", 7),
}


class Dense(nn.Module):
    """A detector without the choice of boxes: the backbone, and the head that reads its levels."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.rpn.head if hasattr(detector, "rpn") else detector.head

    def forward(self, images: Tensor) -> Any:
        return self.head(list(self.backbone(images).values()))


def _make(name: str, **chosen: Any) -> nn.Module:
    sized = {"image_size": 64} if name == "vit_b_32" else {}
    if name in ("googlenet", "inception_v3"):
        sized["init_weights"] = False
    return torchvision().models.get_model(name, weights=None, **sized, **chosen)


def _detector(name: str) -> nn.Module:
    return Dense(_make(name, weights_backbone=None))


def _head(name: str, part: str) -> nn.Module:
    return getattr(_make(name, weights_backbone=None).roi_heads, part)


class Flow(nn.Module):
    """RAFT with few updates of the flow."""

    def __init__(self) -> None:
        super().__init__()
        self.raft = _make("raft_small")

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.raft(first, second, num_flow_updates=2)[-1]


def networks() -> list[Architecture]:
    table: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
        **{name: (partial(_make, name), image(3, side)) for name, side in CLASSIFIERS.items()},
        **{name: (partial(_make, name, weights_backbone=None), image()) for name in SEGMENTATION},
        **{
            name: (partial(_make, name), (Noise((3, frames, side, side)),))
            for name, (frames, side) in VIDEO.items()
        },
        **{f"{name}-dense": (partial(_detector, name), image(3, side)) for name, side in DETECTION.items()},
        **{
            f"{name}-{part}": (partial(_head, name, part), image(256, side))
            for name, (part, side) in HEADS.items()
        },
        "raft_small": (Flow, (Noise((3, 128, 128)), Noise((3, 128, 128)))),
    }
    return [Architecture(f"torchvision/{name}", build, inputs) for name, (build, inputs) in table.items()]
