"""Detection of drawn shapes by a small SSD of torchvision, quantized in parts. For the command line:

    zeropoint compare detection.py:make_model --data detection.py:make_loaders --parts backbone,head \
        --task detection --methods fp32,static --engines openvino,onnxruntime
"""

import torch
from torch import Tensor, nn

import zeropoint as zp
from zeropoint.models.vision import torchvision

HALF, SIZES = 64, ((3, 16), (16, 32), (32, 64), (64, 96))  # pixels of half an image; channels of the network


def batches(count: int, seed: int) -> list[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """Eight noisy images each, with a disc (1), a square (2), a triangle (3) or nothing in every quarter."""
    draw, sizes = torch.Generator().manual_seed(seed), (32 * count, 1, 1)
    label, radius = torch.randint(4, sizes, generator=draw), torch.randint(14, 30, sizes, generator=draw)
    x, y = (radius + (torch.rand(sizes, generator=draw) * (HALF - 2 * radius)).long() for _ in range(2))
    right, down = (torch.arange(HALF) - x).abs(), torch.arange(HALF)[:, None] - y
    shape = torch.where(
        label == 1, right**2 + down**2 < radius**2, (label == 2) | (2 * right < down + radius)
    )
    inside = ((label > 0) & shape & (right.maximum(down.abs()) < radius))[:, None]
    noise = 0.4 + 0.1 * torch.randn(len(label), 3, HALF, HALF, generator=draw)
    quarters = torch.where(inside, torch.rand(len(label), 3, 1, 1, generator=draw), noise)
    images = torch.cat(torch.cat(quarters.unflatten(0, (-1, 2, 2)).unbind(2), 4).unbind(1), 2)
    corners = HALF * torch.tensor([(0, 0, 0, 0), (1, 0, 1, 0), (0, 1, 0, 1), (1, 1, 1, 1)])
    boxes = torch.cat([x - radius, y - radius, x + radius, y + radius], 2).view(-1, 4, 4) + corners
    pairs = zip(boxes.float(), label.view(-1, 4), strict=True)
    targets = [{"boxes": four[kinds > 0], "labels": kinds[kinds > 0]} for four, kinds in pairs]
    return [(list(images[i : i + 8]), targets[i : i + 8]) for i in range(0, 8 * count, 8)]


def make_model() -> nn.Module:
    torch.manual_seed(0)
    models, detection = torchvision().models, torchvision().models.detection
    layers = nn.Sequential(*(torchvision().ops.Conv2dNormActivation(n, m, 3, 2) for n, m in SIZES))
    backbone = models._utils.IntermediateLayerGetter(layers, {"2": "fine", "3": "coarse"})
    anchors = detection.anchor_utils.DefaultBoxGenerator([[], []], scales=[0.25, 0.4, 0.55])
    model = detection.ssd.SSD(backbone, anchors, (2 * HALF, 2 * HALF), num_classes=4, topk_candidates=50)
    optimizer = torch.optim.Adam(model.train().parameters(), 3e-3)
    for images, targets in batches(150, seed=0):
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()
    return model.eval()


def make_loaders() -> dict[str, list]:
    return {"calibration": batches(4, seed=1), "evaluation": batches(6, seed=2)}


if __name__ == "__main__":
    model, data = make_model(), make_loaders()
    for name in ("float32", "openvino", "onnxruntime"):
        run = model if name == "float32" else zp.quantize_parts(model, data["calibration"], engine=name).model
        values = zp.evaluate(lambda *x: run(list(x)), data["evaluation"], task="detection").values  # noqa: B023
        print(f"{'' if run is model else 'int8 on '}{name}: mAP {values['mAP']:.2%}")
