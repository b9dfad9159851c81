"""Parts of torchvision's detectors, whose boxes are chosen by operators that no engine has."""

import pytest
import torch
from networks import options
from torch import Tensor, nn

import zeropoint as zp
from zeropoint.models.vision import torchvision


def roi_align(features: Tensor, rois: Tensor, output_size, spatial_scale=1.0, sampling_ratio=-1) -> Tensor:
    """One bilinear sample in each bin of the rois (K, 5), an image and a box; no wheel has it here."""
    (height, width), (rows, columns) = output_size, features.shape[2:]
    x0, y0, x1, y1 = (rois[:, 1:] * spatial_scale).unbind(1)
    y = y0[:, None] + (y1 - y0)[:, None] * (torch.arange(height) + 0.5) / height
    x = x0[:, None] + (x1 - x0)[:, None] * (torch.arange(width) + 0.5) / width
    places = (2 * x / columns - 1)[:, None, :], (2 * y / rows - 1)[:, :, None]
    grid = torch.stack([place.expand(-1, height, width) for place in places], -1)
    return nn.functional.grid_sample(features[rois[:, 0].long()], grid, align_corners=False)


pytestmark = pytest.mark.slow  # several parts of networks are captured and quantized


@pytest.fixture(autouse=True)
def operators(monkeypatch):
    monkeypatch.setattr(torchvision().ops.poolers, "roi_align", roi_align)


def pictures(*sizes: tuple[int, int], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def pyramid() -> nn.Module:
    """A small backbone with a feature pyramid of three levels, and 16 channels."""
    body = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()),
    )
    made = torchvision().models.detection.backbone_utils.BackboneWithFPN
    return made(body, {"0": "0", "1": "1"}, [8, 16], 16)


def anchors() -> nn.Module:
    made = torchvision().models.detection.anchor_utils.AnchorGenerator
    return made(((8,), (16,), (32,)), ((0.5, 1.0, 2.0),) * 3)


def spread(model: nn.Module) -> nn.Module:
    """Weights of a size that neither fades nor saturates, so that boxes have scores of their own."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            fan = weight[0].numel() if weight.dim() > 1 else 1
            weight.copy_(
                torch.randn(weight.shape, generator=generator) * (1.4 / fan**0.5 if fan > 1 else 0.1)
            )
    return model.eval()


BATCHES = [pictures((64, 64), (60, 80)), pictures((64, 96), seed=1)]


def test_a_one_stage_detector_has_its_backbone_and_head_on_the_engine():
    detection = torchvision().models.detection
    model = detection.RetinaNet(
        pyramid(),
        4,
        anchor_generator=anchors(),
        min_size=64,
        max_size=96,
        topk_candidates=50,
        score_thresh=0.1,
    )
    parts = zp.quantize_parts(spread(model), BATCHES, options=options())
    assert [part.name for part in parts.parts] == ["backbone", "head"]
    assert parts.share > 0.99
    assert min(part.sqnr_db for part in parts.parts) > 25
    x = pictures((70, 70), (64, 90), seed=2)
    with torch.no_grad():
        found = parts.model(x)
    assert [one.keys() for one in found] == [{"boxes", "scores", "labels"}] * 2
    assert min(len(one["boxes"]) for one in found) > 5


def test_float_parts_find_the_same_boxes_in_two_stages():
    detection = torchvision().models.detection
    pool = torchvision().ops.MultiScaleRoIAlign(["0", "1"], 5, 2)
    model = detection.FasterRCNN(
        pyramid(), min_size=64, max_size=96, rpn_anchor_generator=anchors(), box_roi_pool=pool,
        rpn_pre_nms_top_n_test=40, rpn_post_nms_top_n_test=12, box_score_thresh=0.0,
        box_head=detection.faster_rcnn.TwoMLPHead(16 * 25, 32),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(32, 4),
    )  # fmt: skip
    batches = [pictures((64, 64), (64, 64)), pictures((64, 64), (64, 64), seed=1)]
    parts = zp.quantize_parts(spread(model), batches, method="fp32", engine="onnxruntime")
    names = {part.name for part in parts.parts}
    assert names == {"backbone", "rpn.head", "roi_heads.box_head"}
    with torch.no_grad():
        wanted, found = model(batches[0]), parts.model(batches[0])
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(other, one, atol=1e-3, rtol=1e-3)
