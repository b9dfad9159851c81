"""Help at 80 columns, the version, and the options that are derived from the fields of dataclasses."""

import dataclasses
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from zeropoint.cli import app, options
from zeropoint.targets.options import Options
from zeropoint.training.options import TrainingOptions

COMMANDS = [
    "compare", "quantize", "qat", "evaluate", "bench", "inspect", "diagnose", "report", "train",
    "tune",
]  # fmt: skip


def help_of(*arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_fits_eighty_columns_and_nothing_is_cut_off(command: str | None):
    shown = help_of(*([command] if command else []))
    assert max(map(len, shown.splitlines())) <= 80
    body = shown.split("\n", 1)[1]  # after the usage, which has [ARGS]...
    assert "…" not in body
    assert "..." not in body.replace("RUN...", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_sentence_and_every_word_of_it_is_shown(command: str):
    words = " ".join(help_of(command).split())
    for parameter in get_command(app).commands[command].params:
        if parameter.name == "help":
            continue
        assert parameter.help.endswith(".")
        assert " ".join(parameter.help.split()).replace("- ", "-") in words.replace("- ", "-")


def test_every_field_is_an_option_of_the_same_default():
    chosen = {"weight_bits", "activation_bits", "training"}  # by --bits, and by the options of training
    assert options.QUANTIZATION.keys() == {field.name for field in dataclasses.fields(Options)} - chosen
    assert options.TRAINING.keys() == {field.name for field in dataclasses.fields(TrainingOptions)}


def made(line: str, **defaults: object) -> Options:
    """The Options that a command gets."""
    from typer import Typer

    received = []

    @options.quantizing(**defaults)
    def command(options: Options) -> None:
        received.append(options)

    one = Typer()
    one.command()(command)
    done = CliRunner().invoke(one, line.split())
    assert done.exit_code == 0, done.output
    return received[0]


def test_a_command_gets_the_options_that_were_given(tmp_path: Path):
    assert made("") == Options()
    assert made("", epochs=10) == Options(training=TrainingOptions(epochs=10))
    assert made("--epochs 4", epochs=10).training.epochs == 4
    line = "--weight-affine --skip a --skip b.* --weight-granularity per-group --group-size 64 --seed 7"
    assert made(f"{line} --optimizer sgd --compile --progressive") == Options(
        weight_symmetric=False,
        skip=("a", "b.*"),
        weight_granularity="per-group",
        group_size=64,
        seed=7,
        progressive=True,
        training=TrainingOptions(optimizer="sgd", compile=True, seed=7),
    )
    (tmp_path / "recipe.json").write_text('[{"layers": "head", "weight_bits": 4}]')
    (row,) = made(f"--recipe {tmp_path}/recipe.json").recipe
    assert (row.layers, row.weight_bits) == ("head", 4)


def test_version():
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"zeropoint {version('zeropoint')}\n")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["qat", "--help"], ["--version"], ["compare"]])
def test_help_and_wrong_arguments_import_no_torch(arguments: list[str]):
    code = "import sys\nfrom zeropoint.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"
