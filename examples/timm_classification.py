"""A network of timm, trained on scikit-learn's digits. For the command line:

    zeropoint compare timm_classification.py:make_model --data timm_classification.py:make_loaders \
        --methods fp32,static --engines openvino,onnxruntime
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import zeropoint as zp
from zeropoint.models.vision import torchvision

torchvision()  # timm imports it, which fails where its compiled operators are missing, but for this call
import timm  # noqa: E402


def make_loaders() -> dict[str, list[tuple[Tensor, Tensor]]]:
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    images = F.interpolate(images, size=32, mode="bilinear")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    batches = [(images[part], torch.tensor(labels)[part]) for part in order.split(32)]
    return {"train": batches[:40], "calibration": batches[:8], "evaluation": batches[40:]}


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", pretrained=False, num_classes=10, in_chans=1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for images, labels in 4 * make_loaders()["train"]:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


if __name__ == "__main__":
    data = zp.Loaders("digits", **make_loaders())
    program = zp.capture(make_model(), data.evaluation[0][0])
    what = {"methods": ["fp32", "static"], "engines": ["openvino", "onnxruntime"]}
    for row in zp.compare(program, data, out="runs/timm", **what).rows:
        print(f"{row.name}: top-1 {row.values['top-1']:.2%}")
