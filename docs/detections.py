"""Draws docs/tasks/detection.png: the boxes of examples/detection.py in float32, and in int8 on OpenVINO.

python docs/detections.py
"""

import runpy
from pathlib import Path

import torch
from PIL import Image, ImageDraw

import zeropoint as zp

HERE = Path(__file__).parent
NAMES = ("", "disc", "square", "triangle")
ZOOM, SURE = 3, 0.5  # pixels for one; the lowest score of a box that is drawn


def drawn(image: torch.Tensor, found: dict[str, torch.Tensor]) -> Image.Image:
    """The image (3, H, W) with its boxes, names and scores."""
    pixels = (image * 255).clamp(0, 255).byte().movedim(0, -1)
    picture = Image.fromarray(pixels.numpy()).resize([ZOOM * side for side in image.shape[:0:-1]])
    pen = ImageDraw.Draw(picture)
    for box, label, score in zip(
        *(found[key].tolist() for key in ("boxes", "labels", "scores")), strict=True
    ):
        if score >= SURE:
            corners = [ZOOM * side for side in box]
            pen.rectangle(corners, outline="white", width=2)
            pen.text((corners[0] + 4, corners[1] + 2), f"{NAMES[label]} {score:.2f}", fill="white")
    return picture


def main() -> None:
    """Writes the picture: float32 left, int8 right."""
    example = runpy.run_path(str(HERE.parent / "examples" / "detection.py"))
    model, data = example["make_model"](), example["make_loaders"]()
    parts = zp.quantize_parts(model, data["calibration"])
    images, targets = data["evaluation"][0]
    shown = max(range(len(images)), key=lambda number: len(targets[number]["labels"]))
    with torch.no_grad():
        pictures = [drawn(images[shown], run(images)[shown]) for run in (model, parts.model)]
    both = Image.new("RGB", (sum(one.width for one in pictures) + 8, pictures[0].height), "white")
    both.paste(pictures[0], (0, 0))
    both.paste(pictures[1], (pictures[0].width + 8, 0))
    both.quantize(64).save(HERE / "tasks" / "detection.png", optimize=True)


if __name__ == "__main__":
    main()
