"""audiofolder:DIR: sounds in one folder per class."""

import sys
import wave

import numpy as np
import pytest
import torch

from zeropoint.data import resolve
from zeropoint.errors import InputError


def write(path, values, width=2, channels=1, rate=8000):
    """Values from -1 to 1 as little-endian integers; those of one byte have no sign."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = np.clip(np.round(np.asarray(values) * 2 ** (8 * width - 1)), *limits(width)).astype("<i8")
    if width == 1:
        whole += 128
    frames = b"".join(int(one).to_bytes(8, "little", signed=True)[:width] for one in whole.ravel())
    with wave.open(str(path), "wb") as sound:
        sound.setparams((channels, width, rate, 0, "NONE", "not compressed"))
        sound.writeframes(frames)


def limits(width):
    return -(2 ** (8 * width - 1)), 2 ** (8 * width - 1) - 1


def sort_sounds(folder, per_class=10, **options):
    """Sounds of a constant value, 0.05 to 0.95, of 41 to 60 samples."""
    for rank, name in enumerate(("ant", "bee")):
        for number in range(per_class):
            place = per_class * rank + number
            write(folder / name / f"{number:02}.wav", np.full(41 + place, place / 20), **options)


def stacked(loader):
    sounds, labels = zip(*loader, strict=True)
    return torch.cat(sounds), torch.cat(labels)


def test_sounds_are_cut_or_padded_to_the_median_length(tmp_path):
    sort_sounds(tmp_path)
    loaders = resolve(f"audiofolder:{tmp_path}", batch_size=3)
    calibration, evaluation = stacked(loaders.calibration), stacked(loaders.evaluation)
    assert (evaluation[0].dtype, evaluation[1].dtype) == (torch.float32, torch.int64)
    assert (len(calibration[0]), len(evaluation[0])) == (4, 16)
    sounds, labels = (torch.cat(both) for both in zip(calibration, evaluation, strict=True))
    assert sounds.shape == (20, 50)  # the lengths are 41 to 60
    places = (sounds[:, 0] * 20).round().long()
    assert sorted(places.tolist()) == list(range(20))
    assert torch.equal(labels, places // 10)
    for place, sound in zip(places.tolist(), sounds, strict=True):
        expected = np.zeros(50)
        expected[: 41 + place] = round(place / 20 * 2**15) / 2**15
        assert sound.tolist() == expected.tolist()
    assert loaders.description == "20 sounds in 2 classes, 8000 Hz, cut or padded to 50 samples"


def test_the_length_may_be_given(tmp_path):
    sort_sounds(tmp_path)
    assert next(iter(resolve(f"audiofolder:{tmp_path}@64").evaluation))[0].shape == (16, 64)
    with pytest.raises(InputError, match="sounds of 0 samples are empty"):
        resolve(f"audiofolder:{tmp_path}@0")
    with pytest.raises(InputError, match="two lengths"):
        resolve(f"audiofolder:{tmp_path}@4@5")


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_values_of_every_width_are_from_minus_one_to_one(tmp_path, width):
    values = np.array([-1, -0.5, 0, 0.25, 0.75, 1])
    for name in "ab":
        for number in range(5):
            write(tmp_path / name / f"{number}.wav", values, width)
    sounds, _ = next(iter(resolve(f"audiofolder:{tmp_path}").evaluation))
    assert sounds[0, :5].tolist() == values[:5].tolist()
    assert float(sounds[0, 5]) == pytest.approx(1 - 2.0 ** (1 - 8 * width), rel=1e-7)


def test_channels_are_averaged(tmp_path):
    for number in range(5):
        write(tmp_path / "a" / f"{number}.wav", [[0.5, 0.25], [0, -1]], channels=2)
    sounds, _ = next(iter(resolve(f"audiofolder:{tmp_path}").evaluation))
    assert sounds[0].tolist() == [0.375, -0.5]


def test_the_seed_draws_the_parts_and_train_and_val_are_read_as_such(tmp_path):
    sort_sounds(tmp_path)
    first, again, other = (
        [stacked(getattr(resolve(f"audiofolder:{tmp_path}", seed=seed), name))[0] for name in
         ("calibration", "evaluation")]
        for seed in (0, 0, 1)
    )  # fmt: skip
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[1], other[1])
    for part, count in (("train", 10), ("val", 3)):
        sort_sounds(tmp_path / "two" / part, count)
    loaders = resolve(f"audiofolder:{tmp_path}/two")
    sizes = [len(stacked(one)[1]) for one in (loaders.train, loaders.validation, loaders.evaluation)]
    assert sizes == [18, 2, 6]
    write(tmp_path / "two" / "val" / "cat" / "0.wav", [0])
    with pytest.raises(InputError, match="class cat is in only one of train and val"):
        resolve(f"audiofolder:{tmp_path}/two")


def test_what_is_missing_or_broken_is_told(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"^no such folder: .*nowhere; give audiofolder:DIR"):
        resolve(f"audiofolder:{tmp_path}/nowhere")
    with pytest.raises(InputError, match="has no folders; sort the sounds"):
        resolve(f"audiofolder:{tmp_path}")
    (tmp_path / "ant").mkdir()
    with pytest.raises(InputError, match=r"ant has no sounds \(.wav, .flac, .ogg\)"):
        resolve(f"audiofolder:{tmp_path}")
    sort_sounds(tmp_path)
    write(tmp_path / "bee" / "99.wav", np.zeros(50), rate=16000)
    with pytest.raises(InputError, match=r"several sample rates: .*\.wav has 8000 Hz, .*99.wav 16000 Hz"):
        resolve(f"audiofolder:{tmp_path}")
    write(tmp_path / "bee" / "99.wav", np.zeros(50))
    whole = (tmp_path / "bee" / "99.wav").read_bytes()
    for path in tmp_path.glob("*/*.wav"):
        path.write_bytes(whole[:-2])  # the header still says 50 samples
    with pytest.raises(InputError, match=r"the sound .*\.wav is cut off"):
        list(resolve(f"audiofolder:{tmp_path}").evaluation)
    (tmp_path / "bee" / "99.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"cannot read the sound .*99\.wav: file does not start"):
        resolve(f"audiofolder:{tmp_path}")
    (tmp_path / "bee" / "99.wav").rename(tmp_path / "bee" / "99.flac")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(
        InputError, match=r"99.flac needs soundfile, which is not installed; run: pip install"
    ):
        resolve(f"audiofolder:{tmp_path}")


def test_other_formats_are_read_by_soundfile(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    values = np.array([[-0.5, 0.5], [0.25, 0.5], [0, 1 / 1024]])
    for name, options in (("a.flac", {}), ("b.wav", {"subtype": "FLOAT"})):
        (tmp_path / name[0]).mkdir()
        for number in range(5):
            soundfile.write(tmp_path / name[0] / f"{number}{name[1:]}", values, 8000, **options)
    sounds, _ = stacked(resolve(f"audiofolder:{tmp_path}").evaluation)
    assert sounds.tolist() == [values.mean(1).tolist()] * 8
