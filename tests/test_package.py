"""The package as it is installed: a wheel with all its files, right metadata, and a command that runs."""

import email.parser
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email.message import Message
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited.keys() >= {"cff-version", "message", "title", "authors"}  # what the schema requires
    assert (cited["title"], cited["version"], cited["license"]) == (
        PROJECT["name"], PROJECT["version"], PROJECT["license"]
    )  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("build")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "zeropoint", folder / "zeropoint", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    subprocess.run([*command, "--wheel-dir", "dist"], cwd=folder, check=True, capture_output=True)
    (made,) = (folder / "dist").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.parser.Parser().parsestr(archive.read(name).decode())


@pytest.mark.slow
def test_every_file_of_the_package_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "zeropoint").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files <= names
    assert "zeropoint/py.typed" in names
    assert {name.partition("/")[0] for name in names} == {
        "zeropoint",
        f"zeropoint-{PROJECT['version']}.dist-info",
    }


@pytest.mark.slow
def test_the_metadata_is_right(metadata):
    assert (metadata["Name"], metadata["Version"]) == ("zeropoint", PROJECT["version"])
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert sorted(needed) == sorted(PROJECT["dependencies"])


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A new environment with the wheel; its other packages are those of this one, to be quick."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (site,) = (folder / "lib").glob("python*/site-packages")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "python"


def run(python: Path, *arguments: str, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-m", "zeropoint", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_installed_package_runs(installed, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = "import zeropoint; print(zeropoint.__file__)"
    where = subprocess.run(
        [installed, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert str(installed.parents[1]) in where.stdout
    assert run(installed, "--version", cwd=tmp_path) == f"zeropoint {PROJECT['version']}\n"
    for command in ("compare", "ship", "verify"):
        assert command in run(installed, "--help", cwd=tmp_path)
    options = ["--data", "random", "--limit-batches", "1", "--out", "m.pt2"]
    run(installed, "quantize", "digits/resnet", *options, cwd=tmp_path)
    assert (tmp_path / "m.pt2").is_file()


@pytest.mark.slow
def test_a_folder_is_shipped_from_the_installed_package(installed, tmp_path):
    """Its scripts are data of the package."""
    code = (
        "import torch, zeropoint as zp\n"
        "program = zp.capture(torch.nn.Linear(3, 2), torch.rand(2, 3))\n"
        "zp.ship(program, 'onnxruntime', 'out')\n"
        "raise SystemExit(zp.verify('out', '--seconds', '0'))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([installed, "-c", code], check=True, capture_output=True, cwd=tmp_path, env=environment)
    assert (tmp_path / "out" / "cpp" / "predict.cpp").is_file()


def test_the_version_is_that_of_the_project():
    assert importlib.metadata.version("zeropoint") == PROJECT["version"]
