"""Files that are no models, or no weights: what each one is, and what to give instead."""

import pickle
import zipfile
from pathlib import Path

import torch

from zeropoint.errors import InputError

# Endings of files of models, which no other name has.
SUFFIXES = (
    ".pt", ".pth", ".bin", ".ckpt", ".ts", ".torchscript", ".jit", ".ptl", ".pkl", ".pickle", ".safetensors",
    ".gguf", ".ggml", ".onnx", ".pt2", ".pte", ".h5", ".keras", ".pb", ".tflite", ".mlmodel", ".xml",
)  # fmt: skip
_KINDS = {
    "script": (
        "a TorchScript file, from which Python's code is gone",
        "give the model it was made from as FILE.py:FUNCTION, or save that by torch.export.save",
    ),
    "module": (
        "a pickled module, and loading it would run code from the file",
        "give the model as FILE.py:FUNCTION, and its state_dict(), saved alone, as --weights",
    ),
    "gguf": (
        "a GGUF file, whose weights are quantized already",
        "give the float model, as in hf/ID-or-FOLDER",
    ),
    "onnx": (
        "an ONNX model, and quantization starts from PyTorch",
        "give the model that it was exported from, as FILE.py:FUNCTION or .pt2; bench and evaluate run the"
        " file as it is",
    ),
    "tensorflow": ("a model of TensorFlow", "give a model of PyTorch"),
    "state": ("a state dict", "give the model, and this file as --weights"),
}


def names_a_file(spec: str) -> bool:
    """Whether ``spec`` is the name of a file or folder rather than that of a model."""
    return Path(spec).suffix.lower() in SUFFIXES or Path(spec).exists()


def refuse_model(path: Path) -> InputError:
    """The error for a ``path`` that was given as a model and is none."""
    if path.is_dir():
        if (path / "config.json").is_file():
            return InputError(f"{path} is a folder of a transformers model; give hf/{path}")
        return InputError(f"{path} is a folder; give the file of a model, or FILE.py:FUNCTION")
    if not path.exists():
        return InputError(f"no such file: {path}")
    if (kind := kind_of(path)) in _KINDS:
        what, fix = _KINDS[kind]
        if kind == "state" and (path.parent / "config.json").is_file():
            fix = f"give its folder as hf/{path.parent}"
        return InputError(f"{path} is {what}; {fix}")
    return InputError(
        f"{path} is not a file of a model that zeropoint reads; give .pt2, .onnx or FILE.py:FUNCTION"
    )


def refuse_weights(path: Path, fix: str) -> InputError:
    """The error for a ``path`` that was given as weights and cannot be read as a state dict."""
    kind = kind_of(path)
    what = (
        f"is {_KINDS[kind][0]}"
        if kind in _KINDS and kind != "state"
        else "cannot be read safely as a state dict"
    )
    return InputError(f"{path} {what}; {fix}")


def kind_of(path: Path) -> str:
    """What a file holds, by its content: a key of _KINDS, or empty. Nothing in it is run."""
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"GGUF"):
        return "gguf"
    if head.startswith(b"\x89HDF") or head[4:8] == b"TFL3":
        return "tensorflow"
    if path.suffix == ".onnx":
        return "onnx"
    if path.suffix == ".safetensors" and head[8:9] == b"{":
        return "state"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = {name.rpartition("/")[2] for name in archive.namelist()}
        if "constants.pkl" in members:
            return "script"
        return _pickled(path) if "data.pkl" in members else ""
    return _pickled(path) if head.startswith(b"\x80") else ""


def _pickled(path: Path) -> str:
    """Whether a file of ``torch.save`` needs classes that PyTorch does not load as plain weights."""
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError:
        return "module"
    except Exception:  # it is torn, or no file of torch's
        return ""
    return "state"
