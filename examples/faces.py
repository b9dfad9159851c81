"""Faces: the three networks of MTCNN in int8, inside the detector of facenet-pytorch, and what it finds.

It needs `pip install requests` and `pip install --no-deps facenet-pytorch scikit-image`: the one asks for an
older torch, and of the other only a photograph is read.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import zeropoint as zp
from zeropoint.models.vision import torchvision

torchvision()  # facenet-pytorch imports it, which fails where its compiled operators are missing
from facenet_pytorch import MTCNN  # noqa: E402

Found = list[dict[str, Tensor]]


def photograph() -> Image.Image:
    package = find_spec("skimage")
    assert package is not None
    assert package.origin is not None
    return Image.open(Path(package.origin).parent / "data" / "astronaut.png").convert("RGB")


def detect(model: MTCNN, image: Image.Image) -> Found:
    """The faces of an image, as the task detection reads them."""
    boxes, scores = model.detect(image)
    boxes = np.zeros((0, 4)) if boxes is None else np.stack(list(boxes)).astype(np.float32)
    scores = torch.tensor([score for score in scores if score is not None])
    return [{"boxes": torch.from_numpy(boxes), "scores": scores, "labels": torch.ones(len(boxes))}]


if __name__ == "__main__":
    image = photograph()
    others = [image.rotate(5), image.resize((400, 400)), image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    runs = {"float32": MTCNN(keep_all=True).eval()}
    for engine in ("openvino", "onnxruntime"):
        parts = zp.quantize_parts(runs["float32"], others, engine=engine, run=detect)
        runs[f"int8 on {engine}"] = parts.model
        print(f"{engine}: {', '.join(f'{part.name} {part.sqnr_db:.1f} dB' for part in parts.parts)}")
    for name, run in runs.items():
        (found,) = detect(run, image)
        for box, score in zip(found["boxes"].tolist(), found["scores"].tolist(), strict=True):
            print(f"{name}: a face at {', '.join(f'{one:.1f}' for one in box)}, score {score:.4f}")
