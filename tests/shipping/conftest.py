"""A small network of images, quantized, and shipped on ONNX Runtime."""

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from networks import Residual, randomized

import zeropoint as zp
from zeropoint.data import images as prepare
from zeropoint.models.source import Preprocessing
from zeropoint.shipping import folder as shipping
from zeropoint.shipping import ship as ship_module

HOW = Preprocessing(resize=10, crop=(8, 8), mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.25))


@pytest.fixture(scope="session")
def how() -> Preprocessing:
    return HOW


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four smooth colour images of different sizes, as PNG files."""
    from PIL import Image

    folder, generator, paths = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    for number, size in enumerate([(16, 12), (12, 16), (10, 10), (31, 17)]):
        small = Image.fromarray(generator.integers(0, 256, (4, 4, 3), np.uint8))
        paths.append(folder / f"{number}.png")
        small.resize(size, Image.Resampling.BICUBIC).save(paths[-1])
    return paths


@pytest.fixture(scope="session")
def inputs(pictures: list[Path]) -> torch.Tensor:
    """The pictures as torchvision prepares them, float32 (4, 3, 8, 8)."""
    return torch.stack([prepare.prepared(HOW)(prepare.read(path)) for path in pictures])


@pytest.fixture(scope="session")
def quantized(inputs: torch.Tensor) -> zp.Program:
    program = zp.capture(randomized(Residual()), inputs[:2])
    return zp.quantize(program, "static", calibration=[inputs], target="onnxruntime")


@pytest.fixture(scope="session")
def original(tmp_path_factory, quantized, inputs, pictures) -> Path:
    """A shipped folder, which tests must not change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ship_module, "SECONDS", 0.0)
        out = tmp_path_factory.mktemp("ship") / "out"
        classes = ["ant", "bee", "cat", "dog", "eel"]
        zp.ship(
            quantized,
            "onnxruntime",
            out,
            inputs=inputs,
            preprocessing=HOW,
            images=pictures,
            classes=classes,
            task="classification",
        )
    return out


@pytest.fixture
def shipped(original: Path, tmp_path: Path) -> Path:
    """A copy of the shipped folder, in another place."""
    return Path(shutil.copytree(original, tmp_path / "copied"))


@pytest.fixture(scope="session")
def scripts() -> Iterator[ModuleType]:
    """The module ``verify``, as the folder runs it: its neighbours by their own names."""
    sys.path.insert(0, str(shipping.SCRIPTS))
    yield importlib.import_module("verify")
    sys.path.remove(str(shipping.SCRIPTS))


@pytest.fixture
def change(shipped: Path):
    """Changes entries of manifest.json of the copied folder, given by a path of keys with dots."""

    def apply(**changes: object) -> None:
        path = shipped / "manifest.json"
        made = json.loads(path.read_text(encoding="utf-8"))
        for keys, value in changes.items():
            *places, last = keys.split("__")
            part = made
            for place in places:
                part = part[place]
            part[last] = value
        path.write_text(json.dumps(made), encoding="utf-8")

    return apply
