import errno

import pytest

from zeropoint.errors import InputError
from zeropoint.files import atomic_write, check_new, check_writable, make_folder, new_folder


def test_written_with_what_lies_beside(tmp_path):
    target = tmp_path / "new" / "model.xml"
    with atomic_write(target) as temporary:
        assert temporary.name == "model.xml"
        temporary.write_text("text")
        temporary.with_suffix(".bin").write_text("weights")
        assert not target.exists()
    assert sorted(path.name for path in target.parent.iterdir()) == ["model.bin", "model.xml"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), InputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ValueError("x"), ValueError),
    ],
)
def test_failure_leaves_things_as_they_were(tmp_path, error, raised):
    target = tmp_path / "file"
    target.write_text("old")

    def write():
        with atomic_write(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(raised):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert target.read_text() == "old"


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot write"), atomic_write(place):
            pass
    with pytest.raises(InputError, match="cannot write"):
        make_folder(tmp_path / "file" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_new_folder_is_whole_or_not_at_all(tmp_path):
    target = tmp_path / "above" / "new"

    def interrupted() -> None:
        with new_folder(target) as place:
            (place / "half").write_text("")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list((tmp_path / "above").iterdir())
    target.mkdir()
    with new_folder(target) as place:
        (place / "whole").write_text("")
    assert [path.name for path in (tmp_path / "above").rglob("*")] == ["new", "whole"]
    (tmp_path / "usual").mkdir()
    assert target.stat().st_mode == (tmp_path / "usual").stat().st_mode
    with pytest.raises(InputError, match="new is not empty; give a new folder"):
        check_new(target)
    with pytest.raises(InputError, match="whole is not empty"), new_folder(target / "whole"):
        pass


def test_what_cannot_be_written_is_told_before(tmp_path):
    (tmp_path / "file").write_text("")
    check_writable(tmp_path / "a" / "b" / "c.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(InputError, match="file is no folder to write in; choose another place"):
        check_writable(tmp_path / "file" / "c.json")
    with pytest.raises(InputError, match="it is a folder; give a file name"):
        check_writable(tmp_path)
    with pytest.raises(InputError, match="file is no folder to write in"):
        check_new(tmp_path / "file" / "new")
