"""Files that were given as a model and are none: each is told what it is, in one line; nothing in it runs."""

import pickle

import pytest
import torch
from torch import nn

from zeropoint import models
from zeropoint.errors import InputError

FILES = {
    "script": "is a TorchScript file, .*; give the model it was made from as FILE.py:FUNCTION",
    "module": "is a pickled module, and loading it would run code .*--weights",
    "module_old": "is a pickled module",
    "state": "is a state dict; give the model, and this file as --weights",
    "state_safe": "is a state dict",
    "gguf": "is a GGUF file, .*; give the float model, as in hf/ID-or-FOLDER",
    "keras": "is a model of TensorFlow; give a model of PyTorch",
    "onnx": "is an ONNX model, .*; give the model that it was exported from, as FILE.py:FUNCTION",
    "evil": "is a pickled module",
    "rubbish": "is no model that zeropoint reads|is not a file of a model",
    "nowhere": "^no such file",
    "folder": "is a folder; give",
    "model": "is a state dict; give its folder as hf/.*hf_folder$",
    "hf_folder": "is a folder of a transformers model; give hf/",
}


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('this ran')",))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    place = tmp_path_factory.mktemp("files")
    network = nn.Linear(2, 3)
    torch.jit.trace(network, torch.rand(1, 2)).save(place / "script.pt")
    torch.save(network, place / "module.pt")
    torch.save(network, place / "module_old.pt", _use_new_zipfile_serialization=False)
    torch.save(network.state_dict(), place / "state.pth")
    from safetensors.torch import save_file

    save_file(network.state_dict(), place / "state_safe.safetensors")
    (place / "gguf.gguf").write_bytes(b"GGUF" + bytes(40))
    (place / "onnx.onnx").write_bytes(bytes(40))
    (place / "keras.h5").write_bytes(b"\x89HDF\r\n" + bytes(40))
    (place / "evil.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    (place / "rubbish.pt").write_bytes(b"rubbish")
    (place / "folder").mkdir()
    (place / "hf_folder").mkdir()
    (place / "hf_folder" / "config.json").write_text("{}")
    save_file(network.state_dict(), place / "hf_folder" / "model.safetensors")
    found = {file.stem: file for file in place.iterdir()}
    found["model"] = place / "hf_folder" / "model.safetensors"
    return found | {"nowhere": place / "nowhere.pt"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_model_is_told_what_it_is(name, paths):
    with pytest.raises(InputError, match=FILES[name]) as caught:
        models.find(str(paths[name]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["script", "module", "gguf", "evil", "rubbish"])
def test_a_file_that_holds_no_weights_is_told_what_it_is(name, paths):
    with pytest.raises(InputError, match=r"write it with torch\.save") as caught:
        models.find("digits/resnet", str(paths[name]))
    what = {"script": "a TorchScript file", "gguf": "a GGUF file", "rubbish": "cannot be read safely"}
    assert what.get(name, "a pickled module") in str(caught.value)
