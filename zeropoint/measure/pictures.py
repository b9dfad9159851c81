"""Pictures and sounds of the samples that changed most: small PNG and WAV files in a run folder."""

import colorsys
import importlib.util
import re
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zeropoint.data.loaders import Loaders
from zeropoint.files import atomic_write
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import Quantizer, fake_quantize, quantizers
from zeropoint.measure.changed import Media, Outline
from zeropoint.measure.worst import Moved
from zeropoint.tasks.answers import Box

FOLDER = "samples"  # in the run folder
LONGEST = 192  # pixels of a picture's longer side: a photograph of this size takes about 60 kB
SECONDS = 5  # of a sound
VISIBLE = 2  # of 255 levels: pixels that differ by no more look the same
COLOURS = 256

Pixels = np.ndarray[Any, Any]
"""uint8 (H, W) or (H, W, 3)."""


@dataclass(frozen=True)
class RowMedia:
    """What the media of one row are made with: the run folder, the row's name, its Program, and the data."""

    folder: Path
    row: str
    program: Program
    data: Loaders

    def picture(self, name: str, pixels: Pixels, caption: str, boxes: tuple[Outline, ...] = ()) -> Media:
        """Saves a picture."""
        path = self._path(f"{name}.png")
        save_png(path, pixels)
        return Media(path.name, caption, boxes)

    def mask(self, name: str, pixels: Pixels, caption: str) -> Media:
        """Saves a picture whose colours are not to be mixed."""
        path = self._path(f"{name}.png")
        save_png(path, pixels, smooth=False)
        return Media(path.name, caption)

    def sound(self, name: str, values: Tensor, caption: str) -> Media:
        """Saves a sound."""
        rate = self.data.sample_rate or 0
        path, (samples, words) = self._path(f"{name}.wav"), waveform(values, rate)
        save_wav(path, samples, rate)
        return Media(path.name, _joined(caption, words))

    def _path(self, name: str) -> Path:
        """That of a file, with nothing in its name that a system or a browser reads in a way of its own."""
        return self.folder / FOLDER / re.sub(r"[^A-Za-z0-9.]+", "-", name)


def pillow_is_missing() -> bool:
    """Whether no pictures can be made."""
    return importlib.util.find_spec("PIL") is None


def media(moved: Moved, made: RowMedia) -> tuple[Media, ...]:
    """Pictures and sounds of a sample, written to the run folder; none without Pillow.

    Raises InputError if they cannot be written.
    """
    if pillow_is_missing():
        return ()
    return (*_inputs(moved, made), *_masks(moved, made), *_signals(moved, made))


def _inputs(moved: Moved, made: RowMedia) -> list[Media]:
    """The first input that is a sound or an image; also what int8 sees of an image, if that is another."""
    for number, value in enumerate(moved.inputs):
        if is_sound(value, made.data.sample_rate):
            return [made.sound(f"{moved.index}-input", value, "input")]
        if is_image(value):
            return _image(number, value, moved, made)
    return []


def _image(number: int, value: Tensor, moved: Moved, made: RowMedia) -> list[Media]:
    levels = Levels.of(value, made.data.mean, made.data.std)
    pixels, words, more = levels.pixels(value), levels.words, []
    if quantizer := _quantizer(made.program, number):
        bits, seen = quantizer.scheme.bits, levels.pixels(_rounded(value, quantizer))
        difference = int(np.abs(seen.astype(int) - pixels).max())
        if difference > VISIBLE:
            more = [
                made.picture(f"{moved.index}-{made.row}-seen", seen, f"what the network sees, in {bits} bits")
            ]
        else:
            words = _joined(words, f"{bits}-bit rounding moves pixels by {difference} of 255 levels at most")
    boxes = outlines(moved.float32.boxes, "float32", value) + outlines(moved.row.boxes, "row", value)
    return [made.picture(f"{moved.index}-input", pixels, _joined("input", words), boxes), *more]


def _quantizer(program: Program, number: int) -> Quantizer | None:
    """The quantizer of an input, None if the network reads it in float or in a range of the moment."""
    source = [node for node in program.module.graph.nodes if node.op == "placeholder"][number]
    return next((one for one in quantizers(program.module) if one.source is source), None)


def _rounded(value: Tensor, quantizer: Quantizer) -> Tensor:
    scale, zero_point, scheme = float(quantizer.scale), int(quantizer.zero_point), quantizer.scheme
    return fake_quantize(value, scale, zero_point, scheme.qmin, scheme.qmax)


def _masks(moved: Moved, made: RowMedia) -> list[Media]:
    """The classes of pixels of float32, of the row and of the label, and where the first two differ."""
    before, after, label = moved.float32.mask, moved.row.mask, moved.label.mask
    if before is None or after is None:
        return []
    of_row = f"{moved.index}-{made.row}"
    found = [
        made.mask(f"{moved.index}-float32", coloured(before), "float32: a colour for each class"),
        made.mask(f"{of_row}-row", coloured(after), "this row"),
        made.mask(f"{of_row}-difference", differing(before, after), "white: the class changed"),
    ]
    if label is not None:
        found.append(made.mask(f"{moved.index}-label", coloured(label), "label"))
    return found


def _signals(moved: Moved, made: RowMedia) -> list[Media]:
    """Outputs that are images or sounds, drawn by the same levels of grey."""
    before, after = moved.float32.signal, moved.row.signal
    if before is None or after is None:
        return []
    name, other = f"{moved.index}-float32", f"{moved.index}-{made.row}-row"
    if is_sound(before, made.data.sample_rate):
        return [made.sound(name, before, "output of float32"), made.sound(other, after, "output of this row")]
    if not is_image(before) or not is_image(after):
        return []
    levels = Levels.of(before)
    captions = [_joined(f"output of {one}", levels.words) for one in ("float32", "this row")]
    pairs = zip((name, other), (before, after), captions, strict=True)
    return [made.picture(file, levels.pixels(image), words) for file, image, words in pairs]


@dataclass(frozen=True)
class Levels:
    """How values become levels from 0 to 255: ``scale * value + offset``, (C, 1, 1); and that in words."""

    scale: Tensor
    offset: Tensor
    words: str = ""

    @staticmethod
    def of(image: Tensor, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()) -> "Levels":
        """Those that undo a normalization by ``mean`` and ``std``, if it is known.

        Otherwise bytes, and values from 0 to 1, stay what they are, and others are stretched to their range.
        """
        if len(mean) == len(std) and len(mean) in (1, len(image)) and image.is_floating_point():
            return Levels(255 * torch.tensor(std)[:, None, None], 255 * torch.tensor(mean)[:, None, None])
        if not image.is_floating_point():
            return Levels(torch.ones(1, 1, 1), torch.zeros(1, 1, 1))
        low, high = float(image.min()), float(image.max())
        if low >= 0 and high <= 1:
            return Levels(torch.full((1, 1, 1), 255.0), torch.zeros(1, 1, 1))
        scale = 255 / max(high - low, 1e-30)
        words = f"black is {low:.3g}, white {high:.3g}"
        return Levels(torch.full((1, 1, 1), scale), torch.full((1, 1, 1), -scale * low), words)

    def pixels(self, image: Tensor) -> Pixels:
        """The image (C, H, W) of one or three channels."""
        found = (image.float() * self.scale + self.offset).round().clamp(0, 255).to(torch.uint8)
        return (found[0] if len(found) == 1 else found.movedim(0, -1)).numpy()


def is_image(value: Tensor) -> bool:
    """Whether a sample can be drawn: (1, H, W) or (3, H, W) of finite numbers or bytes."""
    if value.dim() != 3 or value.shape[0] not in (1, 3) or min(value.shape[1:]) < 2:
        return False
    return value.dtype == torch.uint8 or (value.is_floating_point() and bool(torch.isfinite(value).all()))


def is_sound(value: Tensor, sample_rate: int | None) -> bool:
    """Whether a sample can be heard: (T,) or (1, T) of finite numbers, at a known rate."""
    fits = value.dim() in (1, 2) and value.numel() == value.shape[-1] > 1 and value.is_floating_point()
    return bool(sample_rate) and fits and bool(torch.isfinite(value).all())


def waveform(values: Tensor, rate: int) -> tuple[np.ndarray[Any, Any], str]:
    """The first seconds as int16, and what was done to them in words: of a peak above 1, 1 is made."""
    samples, words = values.reshape(-1).double(), []
    if len(samples) > SECONDS * rate:
        samples, words = samples[: SECONDS * rate], [f"the first {SECONDS} s"]
    if (peak := float(samples.abs().max())) > 1:
        samples, words = samples / peak, [*words, f"divided by its peak {peak:.3g}"]
    return (32767 * samples).round().to(torch.int16).numpy(), ", ".join(words)


def coloured(mask: Tensor) -> Pixels:
    """A colour for each class: hues by the golden ratio, so that neighbours differ; class 0 is dark."""
    hues = [
        colorsys.hls_to_rgb(number * 0.618034 % 1, 0.4 + 0.2 * (number % 2), 0.8) for number in range(COLOURS)
    ]
    palette = np.round(255 * np.array([(0.1, 0.1, 0.1), *hues[1:]])).astype(np.uint8)
    pixels: Pixels = palette[mask.numpy() % COLOURS]
    return pixels


def differing(before: Tensor, after: Tensor) -> Pixels:
    """White where two masks differ."""
    return np.where((before != after).numpy(), 255, 0).astype(np.uint8)


def outlines(boxes: tuple[Box, ...], by: Literal["float32", "row"], image: Tensor) -> tuple[Outline, ...]:
    """Boxes as parts of an image (C, H, W)."""
    height, width = image.shape[1:]
    return tuple(
        Outline(x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height, words, by)
        for x1, y1, x2, y2, words in boxes
    )


def save_png(path: Path, pixels: Pixels, *, smooth: bool = True) -> None:
    """A PNG file of at most LONGEST pixels a side, reduced by averages, or if not ``smooth`` by picking."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)
    with atomic_write(path) as file:
        image.save(file, optimize=True)


def save_wav(path: Path, samples: np.ndarray[Any, Any], rate: int) -> None:
    """A WAV file of one channel of int16."""
    with atomic_write(path) as file, wave.open(str(file), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(samples.astype("<i2").tobytes())


def _joined(*words: str) -> str:
    return "; ".join(filter(None, words))
