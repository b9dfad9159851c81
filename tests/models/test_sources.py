"""Models of torchvision, timm and transformers by name, and what they are called on."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zeropoint import models
from zeropoint.errors import InputError
from zeropoint.models import timm, torchvision, transformers
from zeropoint.models.source import call, fitting_shape, like, normal, settled
from zeropoint.models.vision import torchvision as package
from zeropoint.tasks import TASKS

TEXT = {
    "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 50,
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 40,
}  # fmt: skip
IMAGE = {
    "model_type": "vit", "image_size": 8, "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 1, "intermediate_size": 8,
}  # fmt: skip


def run(source, items=2):
    with torch.no_grad():
        return call(source.network, source.inputs(items, torch.Generator()))


def folder(path, config, network=None):
    path.mkdir(exist_ok=True)
    if network is None:
        (path / "config.json").write_text(json.dumps(config))
    else:
        network.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def hf():
    return pytest.importorskip("transformers")


def test_each_task_of_torchvision_has_its_models():
    tasks = torchvision.names()
    every = package().models.list_models()
    assert set(tasks) == {name for name in every if not name.startswith("quantized_")}
    for name, task in {
        "resnet18": "classification",
        "fcn_resnet50": "segmentation",
        "maskrcnn_resnet50_fpn": "detection",
        "mvit_v2_s": "video",
        "raft_small": "optical_flow",
    }.items():
        assert tasks[name] == task


@pytest.mark.parametrize(
    ("task", "preset", "shapes"),
    [
        ("classification", "IMAGENET1K_V1", [(2, 3, 224, 224)]),
        ("video", "KINETICS400_V1", [(2, 3, 16, 112, 112)]),
        ("optical_flow", "C_T_V1", [(2, 3, 128, 128), (2, 3, 128, 128)]),
        ("detection", "COCO_V1", [(3, 320, 320), (3, 320, 320)]),
    ],
)
def test_the_inputs_fit_the_task(task, preset, shapes):
    name = {"classification": "resnet18", "video": "r3d_18", "optical_flow": "raft_small"}.get(task)
    weights = package().models.get_model_weights(name or "ssdlite320_mobilenet_v3_large")[preset]
    preprocessing = torchvision._preprocessing(weights.transforms(), nn.Identity())
    inputs = torchvision._inputs(task, weights.meta, preprocessing)(2, torch.Generator())
    flat = torch.utils._pytree.tree_leaves(inputs)
    assert [tuple(tensor.shape) for tensor in flat] == shapes


def test_a_segmentation_model_gets_random_weights_without_a_download(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(torchvision, "settled", lambda network, inputs: network)
    source = models.find("torchvision/lraspp_mobilenet_v3_large", "none")
    assert source.inputs(1, None).shape == (1, 3, 520, 520)
    assert source.preprocessing.resize == 520


def test_the_weights_say_how_images_are_prepared():
    sizes = {"IMAGENET1K_V1": 256, "IMAGENET1K_V2": 232}
    weights = package().models.ResNet50_Weights
    for name, resize in sizes.items():
        assert torchvision._preprocessing(weights[name].transforms(), nn.Identity()).resize == resize


def test_overlapping_boxes_are_suppressed_as_by_hand():
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [0, 0, 10, 5], [20, 20, 30, 31]]
    )
    scores = torch.tensor([0.5, 0.9, 0.3, 0.2, 0.8])
    # Box 0 overlaps box 1 by 90 / 110, box 2 box 4 by 100 / 110, box 3 box 1 by 45 / 105.
    assert package().ops.nms(boxes, scores, 0.5).tolist() == [1, 4, 3]
    assert package().ops.nms(boxes, scores, 0.4).tolist() == [1, 4]
    assert package().ops.nms(boxes[:0], scores[:0], 0.5).tolist() == []
    many = torch.arange(1000.0)[:, None] + torch.tensor([0.0, 0, 1, 1])  # each apart from all others
    assert package().ops.nms(many, torch.arange(1000.0), 0.5).tolist() == list(range(999, -1, -1))


def test_timm_models_have_their_own_preprocessing():
    pytest.importorskip("timm")
    source = models.find("timm/test_vit", "none")
    assert source.inputs(2, None).shape == (2, 3, 160, 160)
    assert source.preprocessing.mean == (0.5, 0.5, 0.5)
    assert source.preprocessing.resize == 168  # 160 / 0.95
    assert run(source).shape == (2, 1000)


def test_a_missing_package_names_its_extra(monkeypatch):
    for name, module in {"timm": timm, "transformers": transformers}.items():
        monkeypatch.setitem(__import__("sys").modules, name, None)
        with pytest.raises(
            InputError, match=rf"{name} is not installed; run: pip install 'zeropoint\[{name}\]'"
        ):
            module.package()


def test_a_folder_of_transformers(tmp_path, hf):
    config = hf.AutoConfig.for_model(**{key: value for key, value in TEXT.items() if key != "architectures"})
    torch.manual_seed(1)
    network = hf.BertForSequenceClassification(config).eval()
    source = models.find(f"hf/{folder(tmp_path / 'm', TEXT, network)}")
    assert isinstance(source.network, hf.BertForSequenceClassification)
    inputs = source.inputs(3, torch.Generator())
    assert {name: tuple(value.shape) for name, value in inputs.items()} == {
        "input_ids": (3, 20), "attention_mask": (3, 20)
    }  # fmt: skip
    with torch.no_grad():
        assert torch.equal(source.network(**inputs).logits, network(**inputs).logits)


def test_a_config_alone_is_enough_for_random_weights(tmp_path, hf):
    path = folder(tmp_path / "m", TEXT)
    first, second = (models.find(f"hf/{path}", "none").network.state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    classifier = models.find(f"hf/{path}", "none", "classification").network
    assert isinstance(classifier, hf.BertForSequenceClassification)
    tagger = models.find(f"hf/{path}", "none", "token-classification")
    assert isinstance(tagger.network, hf.BertForTokenClassification)
    assert run(tagger).logits.shape == (2, 20, 2)


@pytest.mark.parametrize(
    ("config", "shapes"),
    [
        (IMAGE, {"pixel_values": (2, 3, 8, 8)}),
        ({"model_type": "t5", "vocab_size": 30, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1,
          "num_heads": 2},
         {"input_ids": (2, 32), "attention_mask": (2, 32), "decoder_input_ids": (2, 32)}),
        ({"model_type": "whisper", "vocab_size": 30, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1,
          "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8,
          "decoder_ffn_dim": 8, "num_mel_bins": 4, "max_source_positions": 6, "max_target_positions": 8,
          "pad_token_id": 0,
          "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
         {"input_features": (2, 4, 12), "decoder_input_ids": (2, 4)}),
        ({"model_type": "videomae", "image_size": 8, "patch_size": 4, "num_frames": 2, "tubelet_size": 2,
          "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8},
         {"pixel_values": (2, 2, 3, 8, 8)}),
        ({"model_type": "wav2vec2", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
          "intermediate_size": 8, "conv_dim": [4], "conv_stride": [5], "conv_kernel": [10],
          "num_feat_extract_layers": 1, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2},
         {"input_values": (2, 16000)}),
    ],
)  # fmt: skip
def test_arguments_come_from_the_config(config, shapes, tmp_path, hf):
    inputs = models.find(f"hf/{folder(tmp_path / 'm', config)}", "none", "embedding").inputs
    found = {name: tuple(value.shape) for name, value in inputs(2, torch.Generator()).items()}
    assert found == shapes


def test_preprocessing_of_a_transformers_model(tmp_path, hf):
    path = folder(tmp_path / "m", IMAGE)
    processor = {
        "image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 12}, "do_center_crop": True,
        "crop_size": {"height": 8, "width": 8}, "image_mean": [0.1] * 3, "image_std": [0.2] * 3,
        "resample": 3,
    }  # fmt: skip
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    found = models.find(f"hf/{path}", "none", "classification").preprocessing
    assert found == models.Preprocessing(12, (8, 8), (0.1,) * 3, (0.2,) * 3, "bicubic")


@pytest.mark.parametrize(
    ("config", "weights", "task", "told"),
    [
        (None, "default", "", "has no config.json; give the folder that model.save_pretrained wrote"),
        (TEXT, "default", "", r"has no \.safetensors file, and pickled weights are not read"),
        (TEXT, "IMAGENET1K_V1", "", "unknown weights"),
        (TEXT, "none", "text-classificaton", "did you mean text-classification"),
        (TEXT, "none", "detection", "a bert, has no head for detection"),
        (TEXT | {"architectures": None}, "none", "", "names no architecture; give --task"),
        (TEXT | {"architectures": ["Bort"]}, "none", "", "names Bort, which transformers does not have"),
        (TEXT | {"architectures": ["logging"]}, "none", "", "which transformers does not have"),
        (TEXT | {"model_type": "bort"}, "none", "", "cannot open hf/"),
        (TEXT | {"quantization_config": {"quant_method": "gptq"}}, "none", "", "are quantized already"),
        (TEXT | {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}, "none", "", "code of its own"),
    ],
)
def test_what_is_wrong_with_a_folder_is_told(config, weights, task, told, tmp_path, hf):
    if config is None:
        path = tmp_path
    else:
        path = folder(tmp_path / "m", config)
        (path / "own.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(InputError, match=told) as caught:
        models.find(f"hf/{path}", weights, task)
    assert "\n" not in str(caught.value)


def test_every_task_says_which_head_it_needs():
    assert TASKS.keys() <= transformers.TASKS.keys()


def test_weights_that_lack_a_head_are_refused(tmp_path, hf):
    config = hf.AutoConfig.for_model(**{key: value for key, value in TEXT.items() if key != "architectures"})
    path = folder(tmp_path / "m", TEXT, hf.BertModel(config))
    with pytest.raises(InputError, match=r"do not fit BertForTokenClassification, as for classifier\.bias"):
        models.find(f"hf/{path}", task="token-classification")


def test_a_config_cannot_ask_for_compiled_kernels(tmp_path, hf):
    path = folder(tmp_path / "m", TEXT | {"attn_implementation": "someone/kernels"})
    assert models.find(f"hf/{path}", "none").network.config._attn_implementation == "sdpa"


def test_tied_weights_are_given_once(tmp_path):
    network = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    network["b"].weight = network["a"].weight
    state = {key: value + 1 for key, value in network.state_dict().items() if key != "b.weight"}
    save_file(state, tmp_path / "w.safetensors")
    models.states.load_into(network, tmp_path / "w.safetensors")
    assert torch.equal(network["b"].weight, state["a.weight"])


def test_a_batch_norm_of_any_dimension_is_settled():
    for dims, kind in ((1, nn.BatchNorm1d), (2, nn.BatchNorm2d), (3, nn.BatchNorm3d)):
        network = settled(nn.Sequential(kind(2)), normal(2, *[4] * dims))
        assert not network[0].training
        assert network[0].momentum == 0.1
        assert network[0].running_mean.abs().max() > 0


def test_inputs_like_an_example():
    example = {"x": torch.zeros(2, 3), "ids": torch.tensor([[4, 5]]), "scale": torch.tensor(1)}
    made = like(example, free_batch=True)(3, torch.Generator())
    assert made["x"].shape == (3, 3)
    assert made["x"].std() > 0
    assert made["ids"].tolist() == [[4, 5]] * 3
    assert made["scale"] == 1
    assert like(example, free_batch=False)(7, None)["x"].shape == (2, 3)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), "1x8x8"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 3)), "1x28x28"),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), "12"),
        (nn.Conv1d(5, 2, 3), "5x8"),
        (nn.ReLU(), ""),
    ],
)
def test_a_shape_that_fits_a_network(network, shape):
    assert fitting_shape(network) == shape
