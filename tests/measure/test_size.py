import pytest

from zeropoint.errors import InputError
from zeropoint.measure.size import on_disk


def write(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def test_a_file_and_a_folder(tmp_path):
    one = write(tmp_path / "m.pt2", 10)
    write(tmp_path / "deep" / "er" / "m.so", 7)
    assert on_disk(one) == 10
    assert on_disk(str(tmp_path)) == 17


@pytest.mark.parametrize(
    ("main", "weights"), [("m.xml", "m.bin"), ("m.onnx", "m.onnx.data"), ("m.onnx", "m.onnx_data")]
)
def test_weights_kept_beside_count(tmp_path, main, weights):
    model = write(tmp_path / main, 3)
    write(tmp_path / "other.bin", 50)
    assert on_disk(model) == 3
    write(tmp_path / weights, 100)
    assert on_disk(model) == 103


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="no file or folder"):
        on_disk(tmp_path / "absent.pt2")
