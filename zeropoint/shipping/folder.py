"""Writing a shipped folder, and trying it out as it will run: in a process without zeropoint."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zeropoint import engines
from zeropoint.errors import InputError
from zeropoint.files import new_folder
from zeropoint.shipping import layouts, texts
from zeropoint.shipping.manifest import GOLDEN, Shipment, check_engine, manifest

SCRIPTS, CPP = (Path(__file__).parent / name for name in ("scripts", "cpp"))
NAME = "model"  # of the artefact in the folder


def write(
    shipment: Shipment,
    out: str | os.PathLike[str],
    layout: str = "folder",
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Writes the folder at ``out`` whole, or nothing, and gives its manifest.

    In the ``layout`` of a server the artefact lies where the server wants it, and the server's configuration
    is there, too.

    Raises InputError if ``out`` exists, if the engine is not installed, and if the folder in a process of its
    own gives other outputs than zeropoint does.
    """
    check_engine(shipment.engine)
    model = layouts.model_name(shipment.model)
    with new_folder(out) as folder:
        for name in scripts(shipment.engine):
            shutil.copyfile(SCRIPTS / name, folder / name)
        if (CPP / shipment.engine).is_dir():
            shutil.copytree(CPP / shipment.engine, folder / "cpp")
        files = _copy_artefact(shipment, folder, layouts.place(layout, model))
        images = _golden(shipment, folder)
        made = manifest(shipment, files, images, shipment.samples.preprocessing)
        _write_json(folder, made)
        measured = _tried(folder)
        if made["preprocessing"] is not None and measured["preprocessing"][0] != "ok":
            # what the data does to images is more than the record says
            shutil.rmtree(folder / "golden" / "images")
            made = manifest(shipment, files, [], None)
            say(f"images are not prepared by predict.py: {measured['preprocessing'][1]}")
        if made["preprocessing"] is None:
            say(f"no preprocessing is shipped: {made['prepare']}")
        _check_outputs(shipment, folder, measured)
        for name in ("kernels", "memory_bytes", "first_result_seconds"):
            made["measured"][name] = measured[name]
        written = {
            "README.md": texts.readme(made, layout),
            "requirements.txt": texts.requirements(made),
            "Dockerfile": texts.dockerfile(made),
        }
        if layout != "folder":
            written |= layouts.LAYOUTS[layout].files(made, model)
        for name, text in written.items():
            (folder / name).write_text(text, encoding="utf-8")
        made["files"] = digests(folder)
        _write_json(folder, made)
        return dict(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))


def scripts(engine: str) -> tuple[str, ...]:
    """The files of ``scripts/`` that a folder of an engine gets."""
    batches = ("batches.py",) if engine in ("torch", "executorch") else ()
    return ("predict.py", "verify.py", "differences.py", f"engine_{engine}.py", *batches)


def digests(folder: Path) -> dict[str, dict[str, Any]]:
    """The size and the SHA-256 of every file in a folder but manifest.json, by its path."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    return found


def _copy_artefact(shipment: Shipment, folder: Path, place: str) -> list[str]:
    """Copies the files of the artefact to ``place``, named ``model``; their paths in the folder.

    Servers look for model.xml and model.onnx.
    """
    engine, source = engines.named(shipment.engine), shipment.artefact
    ending = next(ending for ending in engine.ENDINGS if source.name.endswith(ending))
    beside = sorted(source.parent.glob(f"{source.name}*data"))  # of an .onnx that holds its weights apart
    if place:
        ending = ending.replace(".openvino", "")
    target = folder / place / (source.name if beside else f"{NAME}{ending}")
    target.parent.mkdir(parents=True, exist_ok=True)
    pairs = [
        *zip(engine.files(source), engine.files(target), strict=True),
        *((one, target.with_name(one.name)) for one in beside),
    ]
    for one, other in pairs:
        try:
            shutil.copyfile(one, other)
        except OSError as error:
            raise InputError(f"cannot copy {one}: {error.strerror or error}; compare again") from error
    return [other.relative_to(folder).as_posix() for _, other in pairs]


def _golden(shipment: Shipment, folder: Path) -> list[str]:
    """Writes the golden inputs and the images they were made of; the paths of the images."""
    (folder / "golden").mkdir()
    np.savez(folder / GOLDEN["inputs"], **(shipment.samples.arrays or {}))
    names = []
    for image in shipment.samples.images:
        path = folder / "golden" / "images" / Path(image).name
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(image, path)
        names.append(path.relative_to(folder).as_posix())
    return names


def _tried(folder: Path) -> dict[str, Any]:
    """What verify.py measures of the folder in a process of its own, which writes the golden outputs."""
    command = [sys.executable, "-E", "-s", str(folder / "verify.py"), "--measure"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command[1:1] = ["-B"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        *_, line = ["no message", *done.stderr.strip().splitlines()]
        raise InputError(f"the folder does not run by itself: {line.removeprefix('error: ')}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _check_outputs(shipment: Shipment, folder: Path, measured: dict[str, Any]) -> None:
    """Raises InputError if the folder's outputs are not those of zeropoint's own runner, to the bit."""
    if not measured["again"]:
        raise InputError(
            "the model gives other outputs at every call, so that none can be kept to verify it; ship another"
        )
    runner = engines.load_artefact(shipment.engine, shipment.artefact, shipment.threads)
    arrays = (shipment.samples.arrays or {}).values()
    expected = runner.run(*(torch.from_numpy(array) for array in arrays))
    with np.load(folder / GOLDEN["outputs"], allow_pickle=False) as file:
        found = [file[port.name] for port in shipment.samples.outputs]
    for port, one, other in zip(shipment.samples.outputs, expected, found, strict=True):
        if not np.array_equal(one.numpy(), other, equal_nan=one.is_floating_point()):
            raise InputError(
                f"{port.name} of the folder is not what zeropoint computes with the artefact; report this"
            )


def _write_json(folder: Path, made: dict[str, Any]) -> None:
    text = json.dumps(made, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "manifest.json").write_text(f"{text}\n", encoding="utf-8")
