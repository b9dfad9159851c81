"""Models of transformers, from its hub or a folder. No code from there runs, and nothing is unpickled."""

import contextlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from zeropoint.errors import InputError, closest, first_line
from zeropoint.models import arguments
from zeropoint.models.source import Preprocessing, Source, settled
from zeropoint.models.vision import torchvision

_CLASSIFIERS = tuple(f"AutoModelFor{kind}Classification" for kind in ("Image", "Sequence", "Audio", "Video"))
# The classes that have the head for a task; none where the config is to tell it.
TASKS: dict[str, tuple[str, ...]] = {
    "classification": _CLASSIFIERS,
    "text-classification": ("AutoModelForSequenceClassification",),
    "multi-label": _CLASSIFIERS,
    "segmentation": ("AutoModelForSemanticSegmentation",),
    "detection": ("AutoModelForObjectDetection",),
    "token-classification": ("AutoModelForTokenClassification",),
    "question-answering": ("AutoModelForQuestionAnswering",),
    "masked-language-modelling": ("AutoModelForMaskedLM",),
    "language-modelling": ("AutoModelForCausalLM",),
    "translation": ("AutoModelForSeq2SeqLM",),
    "speech-recognition": ("AutoModelForSpeechSeq2Seq", "AutoModelForCTC"),
    "depth": ("AutoModelForDepthEstimation",),
    "embedding": ("AutoModel",),
    "image-regression": (),
    "audio-regression": (),
    "regression": (),
    "none": (),
}
_SAFE = (".safetensors", ".safetensors.index.json")


def package() -> ModuleType:
    """transformers. Raises InputError if it is not installed."""
    with contextlib.suppress(InputError):
        torchvision()  # which transformers imports if it is there; this way with any build of torch
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise InputError(
            "transformers is not installed; run: pip install 'zeropoint[transformers]'"
        ) from error
    logging: Any = transformers.utils.logging  # which has no types
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return transformers


def source(name: str, weights: str, task: str | None = None) -> Source:
    """The model of the hub's ID or the folder ``name``; ``weights``: default or none, random ones.

    ``task``: a key of TASKS; None for the class that the config names. Raises InputError for a folder that
    lacks a file, weights that are no safetensors or do not fit, a model with code of its own, and a failing
    download.
    """
    if weights not in ("default", "none"):
        raise InputError(f"unknown weights {weights} for hf/{name}; give default, none or a file")
    if task and task not in TASKS:
        raise InputError(f"unknown task {task}; {closest(task, TASKS)}")
    transformers, folder = package(), Path(name).expanduser()
    is_folder = folder.is_dir() or name.startswith(("/", "./", "../", "~"))
    if is_folder:
        _check_folder(folder, weights)
    place = str(folder) if is_folder else name
    try:
        config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
        kind = _class_of(transformers, config, name, task)
        _make_plain(config, name)
        network: Any = kind._from_config(config) if weights == "none" else _load(kind, place, config, name)
    except InputError:
        raise
    except Exception as error:  # of the hub's client, of configs and of weights: of any type
        if "trust_remote_code" in str(error):
            fix = "write a FILE.py:FUNCTION that builds the model, if you trust that code"
            raise InputError(f"hf/{name} needs code of its own, which zeropoint never runs; {fix}") from error
        fix = "give an ID of the hub, or a folder with config.json and model.safetensors"
        raise InputError(f"cannot open hf/{name}: {first_line(error)}; {fix}") from error
    network.config.use_cache = False  # a call gives logits, not the keys and values of every layer
    network.eval()
    inputs = arguments.random_inputs(network)
    if weights == "none" and inputs is not None:
        settled(network, inputs)
    return Source(network, inputs, _preprocessing(transformers, place), place)


def _check_folder(folder: Path, weights: str) -> None:
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}")
    if (folder / "adapter_config.json").is_file():
        fix = "merge it into its model (merge_and_unload), and save that with save_pretrained"
        raise InputError(f"{folder} holds an adapter; {fix}")
    if not (folder / "config.json").is_file():
        fix = "give the folder that model.save_pretrained wrote"
        raise InputError(f"{folder} has no config.json; {fix}")
    if weights != "none" and not any(file.name.endswith(_SAFE) for file in folder.iterdir()):
        fix = "save the model again with save_pretrained, or give --weights none"
        raise InputError(f"{folder} has no .safetensors file, and pickled weights are not read; {fix}")


def _class_of(transformers: ModuleType, config: Any, name: str, task: str | None) -> Any:
    """The class of transformers for the task, or the one that the config names."""
    if task and TASKS[task]:
        for auto in TASKS[task]:
            known = getattr(transformers, auto)._model_mapping
            if type(config) in known:
                kind = known[type(config)]
                return kind[0] if isinstance(kind, tuple) else kind
        raise InputError(f"hf/{name}, a {config.model_type}, has no head for {task}; give another --task")
    named = (config.architectures or [""])[0]
    kind = getattr(transformers, named, None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        why = f"names {named}, which transformers does not have" if named else "names no architecture"
        raise InputError(f"the config of hf/{name} {why}; give --task, such as {', '.join(sorted(TASKS))}")
    return kind


def _make_plain(config: Any, name: str) -> None:
    """Has the model computed by PyTorch alone: a config may ask for kernels, which are compiled code."""
    config._attn_implementation = config._experts_implementation = None
    if getattr(config, "quantization_config", None):
        raise InputError(f"the weights of hf/{name} are quantized already; give those of the float model")
    if not str(getattr(config, "transformers_weights", None) or _SAFE[0]).endswith(_SAFE):
        raise InputError(f"the config of hf/{name} names weights that are no safetensors; save it again")


def _load(kind: Any, place: str, config: Any, name: str) -> nn.Module:
    """The network with all of its weights. Raises InputError if some are missing: they would be random."""
    import torch

    network, fit = kind.from_pretrained(
        place,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    for wrong in ("missing_keys", "mismatched_keys"):
        if fit[wrong]:
            key, fix = (
                sorted(map(str, fit[wrong]))[0],
                f"give the --task of its weights, or none of {kind.__name__}",
            )
            raise InputError(f"the weights of hf/{name} do not fit {kind.__name__}, as for {key}; {fix}")
    assert isinstance(network, nn.Module)
    return network


def _preprocessing(transformers: ModuleType, place: str) -> Preprocessing | None:
    """That of the model's image processor, None if it has none."""
    try:
        plain = transformers.models.auto.image_processing_auto.get_image_processor_config(
            place, local_files_only=os.path.isdir(place)
        )
    except OSError:
        return None
    if not plain:
        return None
    size, own = plain.get("size") or {}, Preprocessing()
    crop = _pair(plain.get("crop_size")) if plain.get("do_center_crop") else None
    resize = size.get("shortest_edge", size) if isinstance(size, dict) else size
    side = resize if isinstance(resize, int) else _pair(resize)
    crop = crop or _pair(side) or own.crop
    filters = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # of Pillow
    return Preprocessing(
        side or crop,
        crop,
        tuple(plain.get("image_mean") or own.mean),
        tuple(plain.get("image_std") or own.std),
        filters.get(plain.get("resample", 2), own.interpolation),
    )


def _pair(size: Any) -> tuple[int, int] | None:
    """Height and width of a size in any of the forms that configs use."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict):
        return (size["height"], size["width"]) if {"height", "width"} <= size.keys() else None
    return (int(size[0]), int(size[1])) if size else None
