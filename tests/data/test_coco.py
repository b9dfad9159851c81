"""coco:DIR: images with boxes."""

import json

import numpy as np
import pytest
import torch

from zeropoint.data import resolve, task_of
from zeropoint.errors import InputError
from zeropoint.models.source import Preprocessing
from zeropoint.tasks import find
from zeropoint.tasks.metric import Score

image_module = pytest.importorskip("PIL.Image")
UNIT = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def write(folder, count=10, part="val2017", inside=None, **changes):
    """Images of 20 × 10 pixels, whose left half is white, and annotations of boxes in them."""
    place = folder / (inside or part)
    place.mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for number in range(count):
        pixels = np.full((10, 20, 3), number, np.uint8)
        pixels[:, :10] = 255
        image_module.fromarray(pixels).save(place / f"{number:03}.png")
    record = {
        "info": {"year": 2017},
        "images": [{"id": 7 + n, "file_name": f"{n:03}.png", "width": 20} for n in range(count)],
        "annotations": [
            {"id": n, "image_id": 7 + n, "category_id": 3, "bbox": [2, 1, 6, n], "iscrowd": n % 2,
             "area": 1.5, "segmentation": [[1, 2, 3, 4]]}
            for n in range(count)
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 90, "name": "brush"}],
    } | changes  # fmt: skip
    path = folder / "annotations" / f"instances_{part}.json"
    path.write_text(json.dumps(record))
    return path


def items(loader):
    """(number that the image was drawn with, image, target) of every image."""
    pairs = [pair for pictures, targets in loader for pair in zip(pictures, targets, strict=True)]
    return [(round(float(image[0, 0, -1]) * 255), image, target) for image, target in pairs]


def test_boxes_are_corners_in_pixels_of_images_of_their_own_size(tmp_path):
    write(tmp_path)
    loaders = resolve(f"coco:{tmp_path}", batch_size=3)
    pictures, targets = next(iter(loaders.evaluation))
    assert isinstance(pictures, list)
    assert len(pictures) == len(targets) == 3
    for number, image, target in items(loaders.evaluation):
        assert image.dtype == torch.float32
        assert image.shape == (3, 10, 20)
        assert image.max() == 1
        expected = [[2, 1, 8, 1 + number]] if number else []  # 2 + 6; one without height is left out
        assert target["boxes"].tolist() == expected
        assert target["boxes"].shape[1] == 4
        assert target["labels"].tolist() == [3] * len(expected)
        assert target["iscrowd"].tolist() == [number % 2] * len(expected)
        assert target["labels"].dtype == torch.int64
    assert loaders.description == (
        "10 images with boxes of 2 classes, in their own sizes, values from 0 to 1"
    )
    assert task_of(f"coco:{tmp_path}") == "detection"


def test_boxes_are_resized_with_the_image(tmp_path):
    write(tmp_path)
    square = Preprocessing(resize=99, crop=(30, 40), interpolation="nearest", **UNIT)
    loaders = resolve(f"coco:{tmp_path}", batch_size=4, preprocessing=square)
    pictures, _ = next(iter(loaders.evaluation))
    assert pictures.shape == (4, 3, 30, 40)
    for number, image, target in items(loaders.evaluation):
        assert (image[:, :, :20] == 1).all()  # the whole image: the white half is half of it
        assert (image[:, :, 20:] == number / 255).all()
        if number:
            # 20 × 10 to 40 × 30: twice as wide, three times as high
            assert target["boxes"].tolist() == [[4, 3, 16, 3 + 3 * number]]
    assert "resized to 30x40, mean (0, 0, 0), std (1, 1, 1)" in loaders.description


def test_one_file_is_split_by_the_seed(tmp_path):
    write(tmp_path)
    parts = {}
    for seed in (0, 0, 1):
        loaders = resolve(f"coco:{tmp_path}", batch_size=4, seed=seed)
        numbers = [
            [number for number, *_ in items(part)] for part in (loaders.calibration, loaders.evaluation)
        ]
        assert [len(part) for part in numbers] == [2, 8]
        assert sorted(numbers[0] + numbers[1]) == list(range(10))
        assert parts.setdefault(seed, numbers) == numbers
    assert parts[0] != parts[1]


def test_train_and_val_are_read_as_such(tmp_path):
    write(tmp_path, 6)
    write(tmp_path, 20, "train2017", inside="images/train2017")
    loaders = resolve(f"coco:{tmp_path}", batch_size=4)
    read = {
        name: items(getattr(loaders, name)) for name in ("evaluation", "train", "validation", "calibration")
    }
    assert {name: len(part) for name, part in read.items()} == {
        "evaluation": 6, "train": 18, "validation": 2, "calibration": 3
    }  # fmt: skip
    numbers = {name: {number for number, *_ in part} for name, part in read.items()}
    assert numbers["calibration"] < numbers["train"]
    assert numbers["train"] | numbers["validation"] == set(range(20))
    assert "6 images to evaluate and 20 to train on with boxes" in loaders.description


def test_one_json_beside_a_folder_of_images(tmp_path):
    write(tmp_path, inside="images").rename(tmp_path / "labels.json")
    assert len(items(resolve(f"coco:{tmp_path}").evaluation)) == 8


def test_a_box_of_a_crowd_counts_neither_as_found_nor_as_missed(tmp_path):
    pytest.importorskip("torchmetrics")
    pytest.importorskip("faster_coco_eval")
    box = torch.tensor([[0.0, 0, 10, 10]])
    crowd = torch.tensor([[50.0, 50, 90, 90]])
    target = {"boxes": torch.cat([box, crowd]), "labels": torch.tensor([1, 1])}
    found = {"boxes": torch.cat([crowd[:, :] - 1, box]), "scores": torch.tensor([0.9, 0.8])}
    found["labels"] = torch.tensor([1, 1])
    missed = {key: value[1:] for key, value in found.items()}
    values = []
    for outputs in (found, missed):
        score = Score(find("detection").metrics[0])
        score.add([outputs], [target | {"iscrowd": torch.tensor([0, 1])}])
        values.append(score.value())
    assert values == pytest.approx([1, 1])
    score = Score(find("detection").metrics[0])
    score.add([missed], [target])
    assert score.value() == pytest.approx(0.5, abs=0.01)  # one of two: recall stops at a half


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"images": []}, "lists no images"),
        ({"annotations": [{"image_id": 7, "category_id": 3}]}, r"`bbox` - at `\$.annotations\[0\]`"),
        ({"annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3]}]}, "length 4"),
        ({"annotations": [{"image_id": 7, "category_id": 4, "bbox": [1, 2, 3, 4]}]}, "of category 4, which"),
        ({"annotations": [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}]}, r"\[0\] is of image 1,"),
        ({"images": [{"id": 7, "file_name": "gone.png"}]}, "its first image gone.png is in none of"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_annotations_is_told(tmp_path, changes, told):
    write(tmp_path, **({"annotations": []} | changes))
    with pytest.raises(InputError, match=told):
        resolve(f"coco:{tmp_path}")


def test_folders_and_files_that_are_missing_or_broken_are_told(tmp_path):
    with pytest.raises(InputError, match=r"^no such folder: .*nowhere; give a folder with annotations"):
        resolve(f"coco:{tmp_path}/nowhere")
    with pytest.raises(InputError, match=r"has no \.json of annotations; give"):
        resolve(f"coco:{tmp_path}")
    path = write(tmp_path)
    (tmp_path / "val2017" / "004.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cannot read the image .*004\.png"):
        [*resolve(f"coco:{tmp_path}").evaluation, *resolve(f"coco:{tmp_path}").calibration]
    path.write_text(path.read_text()[:100])
    with pytest.raises(InputError, match="is no COCO file of boxes"):
        resolve(f"coco:{tmp_path}")
    path.rename(path.with_name("one.json"))
    (tmp_path / "two.json").write_text("{}")
    with pytest.raises(InputError, match=r"may hold annotations, two\.json, one\.json"):
        resolve(f"coco:{tmp_path}")
