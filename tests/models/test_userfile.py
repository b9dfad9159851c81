import re
from pathlib import Path

import pytest

from zeropoint.errors import InputError
from zeropoint.models.userfile import call, identity, is_userfile, load


def test_the_function_may_use_dataclasses_and_neighbours(tmp_path):
    (tmp_path / "neighbour_of_it.py").write_text("NUMBER = 42")
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "import neighbour_of_it\n"
        "@dataclass\n"
        "class Box:\n"
        "    content: int\n"
        "def make_it():\n"
        "    return Box(neighbour_of_it.NUMBER)\n"
    )
    assert call(f"{tmp_path}/mine.py:make_it", "make_model").content == 42


@pytest.mark.parametrize(
    ("code", "name", "told"),
    [
        ("def make_model():\n    1 / 0", "make_model", r"mine\.py:2: ZeroDivisionError"),
        ("import no_such_module", "make_model", "ModuleNotFoundError"),
        ("def broken(:", "make_model", "SyntaxError"),
        ("raise SystemExit(0)", "make_model", "SystemExit"),
        ("def make_model(size): ...", "make_model", "TypeError.*size"),
        ("def make_model(): ...", "make_modle", "did you mean make_model"),
        ("def make_model(): ...", "", "name the function too, as in .*mine.py:make_model"),
    ],
)
def test_what_fails_is_told_in_one_line(tmp_path, code, name, told):
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(InputError, match=told) as caught:
        call(f"{tmp_path}/mine.py:{name}", "make_model")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        call(f"{tmp_path}/nowhere.py:make_model", "make_model")


def test_is_userfile():
    assert is_userfile("file.py:make_model")
    assert is_userfile("file.py")
    assert not is_userfile("torchvision/resnet18")
    assert not is_userfile("imagefolder:data")


def test_identity_of_what_a_file_holds_changes_with_the_file(tmp_path: Path):
    file = tmp_path / "mine.py"
    text = "from math import hypot\nHALF = 0.5\ndef loss(outputs, targets):\n    return HALF\n"
    file.write_text(text)
    first = [identity(load(f"{file}:{name}", "loss")) for name in ("loss", "hypot")]
    assert re.fullmatch(r"loss \w{12}", first[0])
    assert [identity(load(f"{file}:{name}", "loss")) for name in ("loss", "hypot")] == first
    file.write_text(text.replace("0.5", "0.25"))
    second = [identity(load(f"{file}:{name}", "loss")) for name in ("loss", "hypot")]
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_identity_of_other_functions_is_that_of_their_source():
    def half(x: float) -> float:
        return x / 2

    def third(x: float) -> float:
        return x / 3

    assert identity(half) == identity(half)
    assert identity(half).split()[1] != identity(third).split()[1]
    assert identity(None) == ""
    assert identity(len).startswith("len ")
