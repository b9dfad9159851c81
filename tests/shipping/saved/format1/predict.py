"""Runs the model of this folder: python predict.py IMAGE..., or python predict.py INPUTS.npz.

Needs the engine that manifest.json names, and NumPy; Pillow for images. From other code:

    import predict
    model = predict.load("this/folder")
    outputs = model({"input": array})     # a dict of NumPy arrays by the names in manifest.json
"""

import argparse
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1  # the newest manifest that this file reads
KEPT = 4  # shapes of inputs that the engine compiles for; one form, which is slower, serves all others
Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
Shapes = tuple[tuple[int, ...], ...]


class WrongError(Exception):
    """Something is missing or wrong; the message is one line that says what, and the fix."""


@dataclass
class Model:
    """The model of a folder, ready to run. ``manifest`` is what manifest.json says."""

    manifest: dict[str, Any]
    compile: Callable[[Shapes | None], Run]
    runs: dict[Shapes | None, Run] = field(default_factory=dict)

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The outputs by name, for the inputs by name; raises WrongError for a wrong shape or type."""
        arrays = self.checked(inputs)
        return dict(zip((port["name"] for port in self.manifest["outputs"]), self.flat(arrays), strict=True))

    def flat(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The output arrays, in order, of checked input arrays in order."""
        shapes: Shapes | None = tuple(array.shape for array in arrays)
        if shapes not in self.runs:
            shapes = shapes if len(self.runs) < KEPT else None
            if shapes not in self.runs:
                self.runs[shapes] = self.compile(shapes)
        return self.runs[shapes](arrays)

    def checked(self, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        """The arrays in order, of the types that the model takes."""
        ports, sizes, arrays = self.manifest["inputs"], dict[str, int](), []
        names = [port["name"] for port in ports]
        if set(inputs) != set(names):
            raise WrongError(
                f"the model takes {', '.join(names)}; {', '.join(inputs) or 'nothing'} was given"
            )
        for port in ports:
            array, kind = np.asarray(inputs[port["name"]]), np.dtype(port["dtype"])
            if array.dtype.kind != kind.kind:
                raise WrongError(f"{port['name']} is {array.dtype}; give {kind}")
            shape = port["shape"]
            fits = len(shape) == array.ndim and all(
                size == (sizes.setdefault(wanted, size) if isinstance(wanted, str) else wanted)
                for wanted, size in zip(shape, array.shape, strict=True)
            )
            if not fits:
                raise WrongError(
                    f"{port['name']} has shape {array.shape}; give ({', '.join(map(str, shape))})"
                )
            arrays.append(np.ascontiguousarray(array, kind))
        return arrays


def load(folder: str | os.PathLike[str] = ".", threads: int | None = None, *, check: bool = True) -> Model:
    """The model in a folder; ``threads``: to compute with, by default those it was measured with.

    With ``check`` the artefact's size and digest are compared with those in manifest.json. Raises WrongError
    if they differ, and if the engine is not installed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if check:
        for name in manifest["engine"]["files"]:
            if problem := damage(folder, name, manifest["files"][name]):
                raise WrongError(problem)
    artefact = folder / manifest["engine"]["files"][0]
    engine = engine_of(manifest)
    compile = engine.compiler(artefact, manifest, threads or manifest["measured"]["threads"])
    return Model(manifest, compile)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What manifest.json says."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format"]
    except OSError as error:
        raise WrongError(f"cannot read {path}: {error.strerror}; give a folder of zeropoint ship") from error
    except (ValueError, KeyError, TypeError) as error:
        raise WrongError(f"{path} is damaged ({error}); copy the folder again") from error
    if version > FORMAT:
        raise WrongError(f"{path} has format {version}, and this file reads up to {FORMAT}; update it")
    return dict(manifest)


def damage(folder: Path, name: str, known: Mapping[str, Any]) -> str | None:
    """What is wrong with a file of the folder, by its size and digest in the manifest; None if nothing is."""
    path = folder / name
    if not path.is_file():
        return f"{name} is missing; copy the folder again"
    size = path.stat().st_size
    if size != known["bytes"]:
        what = "truncated" if size < known["bytes"] else "too long"
        return f"{name} is {what}: {size:,} of {known['bytes']:,} bytes; copy the folder again"
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != known["sha256"]:
            return f"{name} has another digest than in manifest.json: it was changed; copy the folder again"
    return None


def engine_of(manifest: Mapping[str, Any]) -> Any:
    """The file that runs the manifest's engine."""
    engine = manifest["engine"]
    try:
        return importlib.import_module(f"engine_{engine['name']}")
    except ImportError as error:
        raise WrongError(
            f"{engine['package']} cannot be imported ({error}); run: pip install -r requirements.txt"
        ) from error


def read_image(path: str | os.PathLike[str]) -> Any:
    """An image file as a Pillow image."""
    try:
        from PIL import Image
    except ImportError as error:
        raise WrongError("images need Pillow; run: pip install pillow") from error
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise anything
        raise WrongError(f"cannot read the image {path}: {error}") from error


def preprocess(image: Any, how: Mapping[str, Any]) -> np.ndarray:
    """A Pillow image as float32 (1, C, H, W): resized, cropped in the middle, scaled and normalized.

    ``how`` is the manifest's ``preprocessing``; its ``channels`` are RGB, BGR or L (grey).
    """
    from PIL import Image

    order = how["channels"]
    image = image.convert("L" if order == "L" else "RGB")
    size = how["resize"]
    width, height = image.size
    if isinstance(size, int):  # the shorter side
        short, long = sorted((width, height))
        scaled = (size, int(size * long / short))
        width, height = scaled if width <= height else scaled[::-1]
    else:
        height, width = size
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling[how["interpolation"].upper()])
    rows, columns = how["crop"]
    left, top = _margin(width, columns), _margin(height, rows)
    image = image.crop((left, top, left + columns, top + rows))  # black where the image is smaller
    values = np.asarray(image, np.float32).reshape(rows, columns, -1) / np.float32(how["divide_by"])
    if order == "BGR":
        values = values[..., ::-1]
    mean, std = (np.asarray(how[name], np.float32) for name in ("mean", "std"))
    return np.ascontiguousarray(((values - mean) / std).transpose(2, 0, 1)[None], np.float32)


def _margin(size: int, wanted: int) -> int:
    """Where the middle ``wanted`` of ``size`` pixels begin, rounded as torchvision's CenterCrop does."""
    return round((size - wanted) / 2) if size >= wanted else -((wanted - size) // 2)


def of_images(paths: Sequence[str], manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inputs of a batch of image files."""
    how, ports = manifest["preprocessing"], manifest["inputs"]
    if how is None:
        raise WrongError(f"this model takes no image files: {manifest['prepare']}")
    return {ports[0]["name"]: np.concatenate([preprocess(read_image(path), how) for path in paths])}


def of_arrays(path: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # a damaged file may fail in any way
        raise WrongError(f"cannot read {path}: {error}; give an .npz of arrays by input name") from error


def described(outputs: Mapping[str, np.ndarray], manifest: Mapping[str, Any], top: int) -> list[str]:
    """A line for each item: its likeliest classes if the model classifies, else the shapes of the outputs."""
    scores = next(iter(outputs.values()))
    if manifest["task"] != "classification" or scores.ndim != 2:
        return [f"{name}: {array.dtype} {array.shape}" for name, array in outputs.items()]
    lines, labels = [], manifest["labels"]
    for row in scores.astype(np.float64):
        shares = np.exp(row - row.max())
        shares /= shares.sum()
        best = np.argsort(-row, kind="stable")[:top]
        words = [f"{labels[k] if k < len(labels) else f'class {k}'} {shares[k]:.1%}" for k in best]
        lines.append(", ".join(words))
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit status is 0, or 2 if something is missing or wrong."""
    parser = argparse.ArgumentParser(description="Run the model of this folder.")
    parser.add_argument("files", nargs="+", help="image files, or one .npz with arrays by input name")
    parser.add_argument("--threads", type=int, help="threads to compute with")
    parser.add_argument("--top", type=int, default=3, help="classes to print")
    parser.add_argument("--out", help=".npz file for the outputs")
    given = parser.parse_args(arguments)
    try:
        model = load(Path(__file__).parent, given.threads)
        is_arrays = given.files[0].endswith(".npz")
        inputs = of_arrays(given.files[0]) if is_arrays else of_images(given.files, model.manifest)
        outputs = model(inputs)
    except WrongError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    names = [] if is_arrays else given.files
    for number, line in enumerate(described(outputs, model.manifest, given.top)):
        print(f"{names[number]}: {line}" if number < len(names) else line)
    if given.out:
        np.savez(given.out, allow_pickle=False, **outputs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
