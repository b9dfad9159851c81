"""Trained networks and their data, from a folder with ``models.py`` in it.

``models.py`` has ``resnet20()``, ``mobilenetv2()`` and ``load_images(split, size)``, with the splits
"calibration", "train" and "test"; and ``albert()``, a masked language model, with ``load_reactions(split)``.
Its data are in the same folder.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from zeropoint.models.vision import torchvision

SIZES = {"resnet20": 32, "mobilenetv2": 128}
NETWORKS = (*SIZES, "albert")
CALIBRATION = 256  # images; of reactions all 128


class Tokens(nn.Module):
    """A language model with one input, as other tools' savers take it: tokens and their mask, (N, 2, T)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of every token of the vocabulary, (N, T, V)."""
        scores: Tensor = self.network(input_ids=tokens[:, 0], attention_mask=tokens[:, 1]).logits
        return scores


def read(folder: str) -> ModuleType:
    """The folder's ``models.py``."""
    specification = importlib.util.spec_from_file_location(
        "networks_of_the_folder", Path(folder) / "models.py"
    )
    assert specification is not None
    assert specification.loader is not None
    source = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(source)
    return source


def network(source: ModuleType, name: str) -> nn.Module:
    """A network of the folder, to be evaluated; each has one input and one output."""
    if name not in SIZES:
        torchvision()  # transformers imports it; this way it works with any build of torch
    made: nn.Module = getattr(source, name)().eval()
    return made if name in SIZES else Tokens(made)


def unedited(network: nn.Module) -> nn.Module:
    """The network as its owner has it: a language model takes tokens and their mask by name."""
    return cast(nn.Module, network.network) if isinstance(network, Tokens) else network


def as_given(network: nn.Module, batch: Tensor) -> Any:
    """A batch as the unedited network takes it."""
    by_name = {"input_ids": batch[:, 0], "attention_mask": batch[:, 1]} if isinstance(network, Tokens) else {}
    return by_name or batch


def outputs_of(network: nn.Module, run: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    """The scores that ``run`` gives for a batch, where it takes and gives what the unedited network does."""
    if isinstance(network, Tokens):
        return lambda batch: cast(Tensor, run(**as_given(network, batch)).logits)
    return run


def _reactions(source: ModuleType, split: str) -> tuple[Tensor, Tensor]:
    found = source.load_reactions(split)
    return torch.stack([found["input_ids"], found["attention_mask"]], 1), found["labels"]


def calibration(source: ModuleType, network: str) -> list[Tensor]:
    """The first images of the calibration split, or its reactions, in batches, without their labels."""
    if network not in SIZES:
        return list(_reactions(source, "calibration")[0].split(32))
    return list(source.load_images("calibration", SIZES[network])[0][:CALIBRATION].split(32))


def scored(source: ModuleType, network: str, batch: int = 50) -> list[tuple[Tensor, Tensor]]:
    """The test split. Labels of tokens are -100 where none is masked."""
    if network in SIZES:
        images, labels = source.load_images("test", SIZES[network])
    else:
        images, labels = _reactions(source, "test")
    return list(zip(images.split(batch), labels.split(batch), strict=True))


def training(source: ModuleType, network: str, batch: int = 100) -> DataLoader[Any]:
    """The training split, shuffled, shifted by up to 4 of 32 pixels, and half mirrored (He et al. 2016)."""
    images, labels = source.load_images("train", 32)
    size = SIZES[network]

    def collate(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        padded = [F.pad(image, (4, 4, 4, 4)) for image, _ in items]
        shifts = torch.randint(0, 9, (len(items), 2)).tolist()
        cropped = [image[:, y : y + 32, x : x + 32] for image, (y, x) in zip(padded, shifts, strict=True)]
        mirrored = [image.flip(-1) if torch.rand(()) < 0.5 else image for image in cropped]
        batch = torch.stack(mirrored)
        batch = batch if size == 32 else F.interpolate(batch, size=size, mode="bicubic")
        return batch, torch.stack([label for _, label in items])

    return DataLoader(TensorDataset(images, labels), batch, shuffle=True, collate_fn=collate)
