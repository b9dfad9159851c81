import pytest

from zeropoint.errors import InputError
from zeropoint.models.userfile import call, is_userfile


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
