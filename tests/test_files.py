import errno

import pytest

from zeropoint.errors import InputError
from zeropoint.files import atomic_write, make_folder


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
