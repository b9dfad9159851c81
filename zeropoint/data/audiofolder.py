"""A folder of sounds sorted into one folder per class, streamed."""

import statistics
import wave
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from zeropoint.data.loaders import Loaders
from zeropoint.data.splits import check_classes, counted, parts_of, split
from zeropoint.errors import InputError, first_line

ENDINGS = (".wav", ".flac", ".ogg")


def audiofolder(folder: Path, samples: int | None, *, batch_size: int, seed: int) -> Loaders:
    """The sounds ``folder/class/*.wav`` (.flac, .ogg) as float32 (N, samples), labels int64 (N,).

    Values are from -1 to 1, at the sample rate of the files; channels are averaged. All sounds are cut at the
    end, or padded there with zeros, to ``samples``: by default the median length of the files. A label is the
    rank of the class among the sorted folder names. Subfolders ``train`` and ``val`` are read as such;
    otherwise the folder is split. Files in PCM .wav need no package, all others soundfile.

    Raises InputError for a folder without classes or sounds, for files that cannot be read, and for files of
    several sample rates.
    """
    if samples is not None and samples < 1:
        raise InputError(f"audiofolder:{folder}@{samples}: sounds of {samples} samples are empty; give more")
    places = parts_of(folder)
    classes, *others = [_classes(place) for place in places]
    for to_train_on in others:
        check_classes(folder, classes, to_train_on)
    listed = [_files(place, classes) for place in places]
    headers = {path: _header(path) for files in listed for path, _ in files}
    rates = {rate: path for path, (_, rate) in headers.items()}
    if len(rates) > 1:
        one, other = list(rates.items())[:2]
        raise InputError(
            f"{folder} has several sample rates: {one[1]} has {one[0]} Hz, {other[1]} {other[0]} Hz;"
            " convert them to one"
        )
    length = samples or int(statistics.median_low(frames for frames, _ in headers.values()))
    if not length:
        raise InputError(f"{folder}: most of the sounds are empty; remove those")
    return split(
        f"audiofolder:{folder}",
        *(_Sounds(files, length) for files in listed),
        batch_size=batch_size,
        seed=seed,
        noun="sounds",
        how=f" in {counted(len(classes))}, {next(iter(rates))} Hz, cut or padded to {length:,} samples",
        sample_rate=next(iter(rates)),
    )


def _classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}; give audiofolder:DIR with one folder per class in it")
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise InputError(f"{folder} has no folders; sort the sounds into one folder per class")
    return found


def _files(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """Every sound, with its label."""
    found = []
    for label, name in enumerate(classes):
        inside = [path for path in sorted((folder / name).rglob("*")) if path.suffix.lower() in ENDINGS]
        if not inside:
            raise InputError(f"{folder / name} has no sounds ({', '.join(ENDINGS)}); add some or remove it")
        found += [(path, label) for path in inside]
    return found


@dataclass(frozen=True)
class _Sounds(Dataset[tuple[Tensor, int]]):
    files: list[tuple[Path, int]]
    length: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        found = torch.from_numpy(_read(path, self.length))
        return torch.nn.functional.pad(found, (0, self.length - len(found))), label


def _header(path: Path) -> tuple[int, int]:
    """The number of samples of a file, and how many there are in a second."""
    try:
        with _opened(path) as sound:
            if isinstance(sound, wave.Wave_read):
                return sound.getnframes(), sound.getframerate()
            return sound.frames, sound.samplerate
    except Exception as error:
        raise _unreadable(path, error) from error


def _read(path: Path, length: int) -> np.ndarray:
    """The first samples of a file, at most ``length``, float32."""
    try:
        with _opened(path) as sound:
            if isinstance(sound, wave.Wave_read):
                values = _floats(sound.readframes(length), sound.getsampwidth())
                channels = values.reshape(-1, sound.getnchannels())
                if len(channels) < min(length, sound.getnframes()):
                    raise InputError(f"the sound {path} is cut off; remove or replace it")
            else:
                channels = sound.read(length, dtype="float64", always_2d=True)
        return np.asarray(channels.mean(1), dtype=np.float32)
    except Exception as error:
        raise _unreadable(path, error) from error


def _opened(path: Path) -> Any:
    """A file of sound: of the standard library for integers in .wav, else of soundfile."""
    if path.suffix.lower() == ".wav":
        try:
            return wave.open(str(path), "rb")
        except wave.Error as error:
            if "unknown format" not in str(error):  # as that of floats
                raise
    return _soundfile(path).SoundFile(str(path))


def _soundfile(path: Path) -> ModuleType:
    try:
        import soundfile
    except ModuleNotFoundError as error:
        raise InputError(
            f"{path} needs soundfile, which is not installed; run: pip install 'zeropoint[audio]'"
        ) from error
    found: ModuleType = soundfile
    return found


def _floats(frames: bytes, width: int) -> np.ndarray:
    """Little-endian integers of ``width`` bytes as float64 from -1 to 1; those of one byte have no sign."""
    given = np.frombuffer(frames[: len(frames) // width * width], np.uint8).reshape(-1, width)
    wide = np.zeros((len(given), 4), np.uint8)
    wide[:, 4 - width :] = given ^ 0x80 if width == 1 else given
    return wide.view("<i4")[:, 0] / 2.0**31


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    return InputError(f"cannot read the sound {path}: {first_line(error)}; remove or replace it")
