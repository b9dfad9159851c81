"""Data of each kind on the command line, from the files to the table."""

import json
import wave
from pathlib import Path

import numpy as np
import pytest
import saved_datasets as saved
import word_tokenizer
from torch import nn

from zeropoint.models.vision import torchvision

NETWORKS = """
import torch
from torch import nn
from zeropoint.models.vision import torchvision

def make_detector():
    torch.manual_seed(0)
    models, detection = torchvision().models, torchvision().models.detection
    layers = nn.Sequential(*(torchvision().ops.Conv2dNormActivation(n, m, 3, 2) for n, m in ((3, 8), (8, 8))))
    backbone = models._utils.IntermediateLayerGetter(layers, {"1": "fine"})
    anchors = detection.anchor_utils.DefaultBoxGenerator([[]], scales=[0.25, 0.4])
    return detection.ssd.SSD(backbone, anchors, (32, 32), num_classes=4, topk_candidates=20).eval()

def make_segmenter():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))

def make_classifier():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
    return nn.Sequential(*layers)

def enlarge(outputs):
    return nn.functional.interpolate(outputs["logits"], size=(32, 32))

class Listener(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(1, 8, 5), nn.ReLU(), nn.Conv1d(8, 2, 5))

    def forward(self, sound):
        return self.layers(sound[:, None]).mean(-1)

def make_listener():
    torch.manual_seed(0)
    return Listener()
"""
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad"]
BERT = {
    "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 6,
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 16, "id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1},
}  # fmt: skip
SEGFORMER = {
    "model_type": "segformer", "architectures": ["SegformerForSemanticSegmentation"],
    "num_encoder_blocks": 1, "depths": [1], "sr_ratios": [2], "hidden_sizes": [8], "patch_sizes": [3],
    "strides": [2], "num_attention_heads": [1], "mlp_ratios": [2], "decoder_hidden_size": 8,
    "id2label": {str(n): str(n) for n in range(4)}, "label2id": {str(n): n for n in range(4)},
}  # fmt: skip
STATIC = "--batch-size 4 --methods static --rounding nearest --engines onnxruntime --json"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder to work in, with the user's networks.py."""
    (tmp_path / "networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)


def picture(path, number):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (10, 20, 3), np.uint8)
    pytest.importorskip("PIL.Image").fromarray(pixels).save(path)


def write_masks():
    """Ten images with masks of the classes 0 to 3."""
    for number in range(10):
        picture(f"masks/JPEGImages/{number}.png", number)
        mask = np.full((10, 20), number % 4, np.uint8)
        mask[:, :12] = 255
        path = Path(f"masks/SegmentationClass/{number}.png")
        path.parent.mkdir(exist_ok=True)
        pytest.importorskip("PIL.Image").fromarray(mask).save(path)
    Path("masks/ImageSets/Segmentation").mkdir(parents=True)
    Path("masks/ImageSets/Segmentation/val.txt").write_text("\n".join(map(str, range(10))))


def write_bert():
    """A folder with a BERT and a tokenizer of WORDS."""
    Path("bert").mkdir()
    word_tokenizer.save(Path("bert"), WORDS, BERT)


def compared(command, line):
    """The results of a comparison, and what was said of the data."""
    status, out, err = command(f"compare {line} {STATIC}")
    assert status == 0, err
    (told,) = [line for line in err.splitlines() if line.startswith("data: ")]
    return json.loads(out), told


@pytest.mark.slow
def test_boxes_of_coco(command):
    pytest.importorskip("faster_coco_eval")
    for number in range(10):
        picture(f"boxes/images/{number}.png", number)
    record = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(10)],
        "annotations": [{"image_id": n, "category_id": 3, "bbox": [2, 1, 6, 5]} for n in range(10)],
        "categories": [{"id": 3, "name": "cat"}],
    }
    Path("boxes/all.json").write_text(json.dumps(record))
    line = "networks.py:make_detector --data coco:boxes --parts backbone,head"
    results, told = compared(command, line)
    whole, static = results["rows"]
    assert told == "data: 10 images with boxes of 1 class, in their own sizes, values from 0 to 1"
    assert whole["values"].keys() == static["values"].keys() == {"mAP"}
    assert (static["error"], static["parts"]) == (None, 2)


@pytest.mark.slow
def test_masks_of_voc(command):
    pytest.importorskip("torchmetrics")
    write_masks()
    results, told = compared(command, "networks.py:make_segmenter --data voc:masks --limit-batches 1")
    assert told.startswith("data: 10 images with masks, resized to 256, cropped to 224x224, mean (0.485,")
    assert (results["task"], results["images"]) == ("segmentation", 4)
    assert 0 <= results["rows"][0]["values"]["mIoU"] <= 1


@pytest.mark.slow
def test_masks_are_no_argument_of_a_model_of_transformers(command):
    pytest.importorskip("torchmetrics")
    pytest.importorskip("transformers")
    write_masks()
    Path("segformer").mkdir()
    Path("segformer/config.json").write_text(json.dumps(SEGFORMER))
    size = {"image_processor_type": "SegformerImageProcessor", "size": {"height": 32, "width": 32}}
    Path("segformer/preprocessor_config.json").write_text(json.dumps(size))
    line = "hf/segformer --weights none --data voc:masks --postprocess networks.py:enlarge"
    results, told = compared(command, line)
    assert "resized to 32x32, cropped to 32x32" in told
    assert (results["task"], results["images"]) == ("segmentation", 8)


@pytest.mark.slow
def test_folders_of_sounds(command):
    for name in ("no", "yes"):
        Path("sounds", name).mkdir(parents=True)
        for number in range(10):
            with wave.open(f"sounds/{name}/{number}.wav", "wb") as sound:
                sound.setparams((1, 2, 8000, 0, "NONE", "not compressed"))
                noise = np.random.default_rng(number).normal(0, 3000, 60 + number)
                sound.writeframes(noise.astype("<i2").tobytes())
    results, told = compared(command, "networks.py:make_listener --data audiofolder:sounds")
    assert told == "data: 20 sounds in 2 classes, 8000 Hz, cut or padded to 64 samples"
    assert (results["task"], results["images"]) == ("classification", 16)


@pytest.mark.slow
def test_texts_through_the_tokenizer_of_the_model(command):
    write_bert()
    lines = [{"text": "good " * (n % 3) + WORDS[4 + n % 2], "label": WORDS[4 + n % 2]} for n in range(20)]
    Path("texts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    model = "hf/bert --weights none"
    results, told = compared(command, f"{model} --data jsonl:texts.jsonl")
    assert told == "data: 20 texts in 2 classes (bad 0, good 1), cut or padded to 16 tokens"
    assert (results["task"], results["images"]) == ("text-classification", 16)
    line = f"quantize {model} --data jsonl:texts.jsonl --target onnxruntime --out m.pt2"
    assert command(line)[0] == 0
    line = "evaluate m.pt2 --data jsonl:texts.jsonl --engine onnxruntime --json"
    status, out, err = command(line)  # the Program tells the model that it was made of
    assert status == 0, err
    assert "(bad 0, good 1)" in err
    assert json.loads(out)["task"] == "text-classification"


@pytest.mark.slow
def test_images_that_datasets_saved(command):
    features = {"image": saved.IMAGE, "label": saved.classes(*"abcd")}
    parts = {
        name: {"image": [saved.picture(9 * n) for n in range(rows)], "label": [n % 4 for n in range(rows)]}
        for name, rows in (("train", 20), ("validation", 6))
    }
    saved.write_splits(Path("saved"), features, **parts)
    line = "networks.py:make_classifier --data datasets:saved"
    results, told = compared(command, f"{line} --batch-size 3")
    assert told.startswith("data: 6 images to evaluate and 20 to train on in 4 classes, resized to 256, crop")
    assert (results["task"], results["data"], results["images"]) == ("classification", "datasets:saved", 6)
    assert [(row["method"], row["error"]) for row in results["rows"]] == [("static", None)]
    status, _, err = command(f"qat {line} --out trained --epochs 1 --target onnxruntime --batch-size 6")
    assert status == 0, err
    Path("saved/train/state.json").unlink()
    status, _, err = command(f"evaluate {line}")
    assert status == 2
    assert err.endswith("saved/train has no state.json; give a folder that save_to_disk of datasets wrote\n")


@pytest.mark.slow
def test_texts_that_datasets_saved(command):
    write_bert()
    texts = {
        "text": ["good " * (n % 3) + WORDS[4 + n % 2] for n in range(20)],
        "label": [1 - n % 2 for n in range(20)],
    }
    saved.write(Path("saved"), {"text": saved.STRING, "label": saved.classes("Bad", "Good")}, texts)
    results, told = compared(command, "hf/bert --weights none --data datasets:saved")
    assert told == "data: 20 texts in 2 classes (Bad 0, Good 1), cut or padded to 16 tokens"
    assert (results["task"], results["images"]) == ("text-classification", 16)
    status, _, err = command("compare networks.py:make_classifier --data datasets:saved")
    assert status == 2
    assert "give datasets:saved@FOLDER with the folder of a tokenizer" in err


def test_texts_mask_no_tokens(command):
    Path("texts.jsonl").write_text('{"text": "good"}')
    task = "--task masked-language-modelling"
    status, _, err = command(f"evaluate hf/bert --weights none --data jsonl:texts.jsonl {task}")
    assert status == 2
    assert "jsonl:texts.jsonl masks no tokens" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", ["evaluate {} --engine onnxruntime", "compare {} --methods fp32 --engines onnxruntime --out {}"]
)
def test_float32_far_below_its_weights_is_told(command, monkeypatch, line):
    vision = torchvision()
    made = vision.models.get_model

    def without_download(name, **options) -> nn.Module:
        return made(name, **(options | {"weights": None})).eval()

    monkeypatch.setattr(vision.models, "get_model", without_download)
    for number in range(20):
        picture(f"images/{'ab'[number % 2]}/{number}.png", number)
    model = "torchvision/mobilenet_v3_small --data imagefolder:images --batch-size 16"
    status, _, err = command(line.format(model, "first"))
    assert status == 0, err
    (told,) = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert "on 16 images, and its weights promise 67.7% on ImageNet-1K; the commonest cause is" in told
    status, _, err = command(line.format(f"{model} --weights none", "second"))
    assert status == 0, err
    assert "warning: " not in err
