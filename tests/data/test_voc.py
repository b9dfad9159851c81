"""voc:DIR: images with a class for every pixel."""

import numpy as np
import pytest
import torch

from zeropoint.data import resolve, task_of
from zeropoint.errors import InputError
from zeropoint.models.source import Preprocessing
from zeropoint.tasks import find
from zeropoint.tasks.metric import Score

image_module = pytest.importorskip("PIL.Image")
LARGE = (24, 16)  # width and height of an image of 6 × 4 squares of 4 pixels
PLAIN = Preprocessing(resize=8, crop=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)


def classes(number):
    """The class of each square: 255 in the left column."""
    made = np.arange(24).reshape(4, 6) % 3 + number % 2
    made[:, 0] = 255
    return made


def write(folder, names, part="val", palette=True):
    for each in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / each).mkdir(parents=True, exist_ok=True)
    for name in names:
        number = int(name[1:])
        image_module.new("RGB", LARGE, (10 * number,) * 3).save(folder / "JPEGImages" / f"{name}.png")
        mask = image_module.fromarray(classes(number).astype(np.uint8).repeat(4, 0).repeat(4, 1))
        if palette:
            mask.putpalette([value for one in range(256) for value in (one, 255 - one, 7)])
        mask.save(folder / "SegmentationClass" / f"{name}.png")
    (folder / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("\n".join(names) + "\n")


def items(loader):
    """(number that the image was drawn with, mask) of every image."""
    pairs = [pair for (images,), masks in loader for pair in zip(images, masks, strict=True)]
    return [(round(float(image[0, 0, 0]) * 25.5), mask) for image, mask in pairs]


@pytest.mark.parametrize("palette", [True, False])
def test_masks_are_class_numbers_resized_and_cropped_with_the_image(tmp_path, palette):
    write(tmp_path, [f"n{number}" for number in range(10)], palette=palette)
    loaders = resolve(f"voc:{tmp_path}", batch_size=3, preprocessing=PLAIN)
    (images,), masks = next(iter(loaders.evaluation))
    assert (images.shape, images.dtype) == ((3, 3, 8, 8), torch.float32)
    assert (masks.shape, masks.dtype) == ((3, 8, 8), torch.int64)
    for number, mask in [*items(loaders.evaluation), *items(loaders.calibration)]:
        # 24 × 16 to 12 × 8, a square is two pixels; the middle 8 of 12 columns are squares 1 to 4
        expected = classes(number).repeat(2, 0).repeat(2, 1)[:, 2:10]
        assert mask.tolist() == expected.tolist()
    assert loaders.description == (
        "10 images with masks, resized to 8, cropped to 8x8, mean (0, 0, 0), std (1, 1, 1)"
    )
    assert task_of(f"voc:{tmp_path}") == "segmentation"


def test_the_border_counts_neither_in_the_metric_nor_in_the_loss(tmp_path):
    pytest.importorskip("torchmetrics")
    write(tmp_path, [f"n{number}" for number in range(10)])
    whole = Preprocessing(resize=(4, 6), crop=(4, 6), mean=(0.0,) * 3, std=(1.0,) * 3)
    _, masks = next(iter(resolve(f"voc:{tmp_path}", preprocessing=whole).evaluation))
    assert (masks[:, :, 0] == 255).all()
    scores = torch.randn(*masks.shape, 4, generator=torch.Generator().manual_seed(0)).movedim(-1, 1)
    scores[:, :, :, 0] = 100 * torch.randn(4, generator=torch.Generator().manual_seed(1))[:, None]
    task = find("segmentation")
    inner, labels = scores[:, :, :, 1:], masks[:, :, 1:]
    logs = inner.double().log_softmax(1).gather(1, labels[:, None])
    assert float(task.loss(scores.double(), masks)) == pytest.approx(-float(logs.mean()))
    predicted = inner.argmax(1)
    both = [((predicted == c) & (labels == c)).sum() for c in range(4)]
    either = [((predicted == c) | (labels == c)).sum() for c in range(4)]
    score = Score(task.metrics[0])
    score.add(scores, masks)
    ratios = [float(a / b) for a, b in zip(both, either, strict=True)]
    assert score.value() == pytest.approx(sum(ratios) / 4)


def test_val_alone_is_split_by_the_seed_and_train_is_read_as_such(tmp_path):
    write(tmp_path, [f"n{number}" for number in range(10)])
    parts = {}
    for seed in (0, 0, 1):
        loaders = resolve(f"voc:{tmp_path}", seed=seed, preprocessing=PLAIN)
        numbers = [[number for number, _ in items(one)] for one in (loaders.calibration, loaders.evaluation)]
        assert [len(part) for part in numbers] == [2, 8]
        assert sorted(numbers[0] + numbers[1]) == list(range(10))
        assert parts.setdefault(seed, numbers) == numbers
    assert parts[0] != parts[1]
    write(tmp_path, [f"t{number}" for number in range(10, 25)], "train")
    loaders = resolve(f"voc:{tmp_path}", preprocessing=PLAIN)
    sizes = [len(items(one)) for one in (loaders.evaluation, loaders.train, loaders.validation)]
    assert sizes == [10, 14, 1]
    assert {number for number, _ in items(loaders.calibration)} <= set(range(10, 25))


def test_what_is_missing_or_broken_is_told(tmp_path):
    with pytest.raises(InputError, match=r"^no such folder: .*nowhere; give a folder with JPEGImages"):
        resolve(f"voc:{tmp_path}/nowhere")
    with pytest.raises(InputError, match=r"no such file: .*val.txt; give a folder with JPEGImages"):
        resolve(f"voc:{tmp_path}")
    write(tmp_path, ["n1", "n2", "n3"])
    with pytest.raises(InputError, match="has only 3 images, too few"):
        resolve(f"voc:{tmp_path}")
    names = [f"n{number}" for number in range(10)]
    write(tmp_path, names)

    def told():
        with pytest.raises(InputError) as error:
            items(resolve(f"voc:{tmp_path}", preprocessing=PLAIN).evaluation)
        return str(error.value)

    masks = tmp_path / "SegmentationClass"
    for name in names:
        image_module.new("RGB", LARGE).save(masks / f"{name}.png")
    assert "holds colours (RGB); save class numbers" in told()
    for name in names:
        image_module.new("L", (24, 15)).save(masks / f"{name}.png")
    assert "has (24, 15) pixels and its image (24, 16)" in told()
    for name in names:
        (masks / f"{name}.png").write_bytes(b"no mask")
    assert "cannot read the mask" in told()
    (masks / "n4.png").unlink()
    assert "SegmentationClass has no n4.jpg or .png, which ImageSets lists" in told()
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_bytes(b"\xff\xfe")
    assert "cannot read" in told()
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    assert "val.txt is empty" in told()
