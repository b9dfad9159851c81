import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zeropoint import models
from zeropoint.data import resolve as resolve_data
from zeropoint.errors import InputError
from zeropoint.models import demo


@pytest.mark.parametrize(("name", "least"), [("resnet", 0.98), ("mobilenet", 0.97)])
def test_a_demo_network_knows_the_digits_it_never_saw(name, least):
    network = models.resolve(f"digits/{name}")
    assert not network.training
    assert sum(parameter.numel() for parameter in network.parameters()) < 200_000
    assert demo.checkpoint(name).stat().st_size < 1_000_000
    with torch.no_grad():
        right = [network(x).argmax(1) == y for x, y in resolve_data("digits", batch_size=200).evaluation]
    assert torch.cat(right).double().mean() >= least


def test_none_is_random_but_the_same_every_time_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    first = models.resolve("digits/resnet", "none").state_dict()
    after = torch.rand(1)
    second = models.resolve("digits/resnet", "none").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["0.weight"], models.resolve("digits/resnet").state_dict()["0.weight"])
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_come_from_a_file(tmp_path, suffix):
    state = {key: value + 1 for key, value in demo.resnet().state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    loaded = models.resolve("digits/resnet", str(path)).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_weights_that_do_not_fit_are_told_by_their_first_key(tmp_path):
    path = tmp_path / "weights.pt"
    state = demo.resnet().state_dict()
    cases = {
        "0.weight is missing": {key: value for key, value in state.items() if key != "0.weight"},
        "extra is not in the model": {**state, "extra": torch.zeros(1)},
        r"0.weight has shape \(2,\), the model's \(16, 1, 3, 3\)": {**state, "0.weight": torch.zeros(2)},
    }
    for told, wrong in cases.items():
        torch.save(wrong, path)
        with pytest.raises(InputError, match=told):
            models.resolve("digits/resnet", str(path))


def test_files_that_hold_no_state_dict_are_told(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(demo.resnet(), path)  # a pickled class: reading it would run code
    with pytest.raises(InputError, match="is a pickled module"):
        models.resolve("digits/resnet", str(path))
    torch.save({"state_dict": {}}, path)
    with pytest.raises(InputError, match="no plain state dict"):
        models.resolve("digits/resnet", str(path))
    for suffix in models.states.SUFFIXES:
        with pytest.raises(InputError, match="No such file"):
            models.resolve("digits/resnet", str(tmp_path / f"nowhere{suffix}"))
        (tmp_path / f"rubbish{suffix}").write_bytes(b"rubbish")
        with pytest.raises(InputError, match="rubbish"):
            models.resolve("digits/resnet", str(tmp_path / f"rubbish{suffix}"))
        (tmp_path / f"empty{suffix}").touch()
        with pytest.raises(InputError, match="empty"):
            models.resolve("digits/resnet", str(tmp_path / f"empty{suffix}"))


@pytest.mark.parametrize(
    ("spec", "weights", "told"),
    [
        ("digits/resent", "default", r"did you mean resnet"),
        ("digits/resnet", "IMAGENET1K_V1", "give default, none or a path"),
        ("resnet18", "default", "torchvision/NAME.*did you mean torchvision/resnet18 or"),
        ("torchvison/resnet18", "default", "did you mean torchvision/resnet18"),
        ("timm/resnet19", "default", "did you mean resnet18"),
        ("torchvision/resnet81", "none", "did you mean .*resnet18"),
        ("torchvision/quantized_resnet18", "none", "unknown model"),
        ("torchvision/resnet18", "IMAGENET1K_V3", "did you mean IMAGENET1K_V1"),
    ],
)
def test_unknown_names_are_told(spec, weights, told):
    with pytest.raises(InputError, match=told):
        models.resolve(spec, weights)


def test_torchvision_models_run():
    network = models.resolve("torchvision/mobilenet_v3_small", "none")
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    assert not network.training


def test_a_failing_download_is_told_with_the_mend(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(InputError, match=r"resnet18: .*--weights none"):
        models.resolve("torchvision/resnet18")


def test_a_model_of_the_users_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from torch import nn\ndef make_model(): return nn.Linear(2, 3)\ndef wrong(): return 3")
    network = models.resolve(f"{file}:make_model")
    assert isinstance(network, nn.Linear)
    assert not network.training
    torch.save({"weight": torch.ones(3, 2), "bias": torch.ones(3)}, tmp_path / "ones.pt")
    assert models.resolve(f"{file}:make_model", str(tmp_path / "ones.pt"))(torch.ones(1, 2)).tolist() == [
        [3, 3, 3]
    ]
    with pytest.raises(InputError, match="returned a int"):
        models.resolve(f"{file}:wrong")
    with pytest.raises(InputError, match="unknown weights"):
        models.resolve(f"{file}:make_model", "IMAGENET1K_V1")


def test_is_program():
    assert models.is_program("out/model.pt2")
    assert not models.is_program("torchvision/resnet18")


def test_a_model_of_the_users_file_may_say_how_images_are_prepared(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\nfrom zeropoint.models import Preprocessing\n"
        "def plain(): return nn.Conv2d(3, 1, 1)\n"
        "def told():\n    model = plain()\n"
        "    model.preprocessing = Preprocessing(resize=32, crop=(32, 32))\n    return model\n"
        "def layer():\n    model = plain()\n    model.preprocessing = nn.Identity()\n    return model\n"
    )
    found = [models.find(f"{file}:{name}").preprocessing for name in ("plain", "told", "layer")]
    assert found == [None, models.Preprocessing(resize=32, crop=(32, 32)), None]
