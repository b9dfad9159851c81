"""Pictures and sounds: their values, read back."""

import math
import wave

import numpy as np
import pytest
import torch
from networks import images, options, residual
from PIL import Image

from zeropoint.data import Loaders
from zeropoint.measure.pictures import LONGEST, SECONDS, Levels, RowMedia, coloured, media, save_png, waveform
from zeropoint.measure.worst import Moved
from zeropoint.quantization import quantize
from zeropoint.tasks.answers import Answer, Box

generator = torch.Generator().manual_seed(0)


def row_media(tmp_path, program=None, **facts):
    return RowMedia(
        tmp_path, "static W4A4 on openvino", program or residual(), Loaders("mine", [], [], **facts)
    )


def moved(*inputs, float32=None, row=None, label=None):
    answers = float32 or Answer(), row or Answer(), label or Answer()
    return Moved(7, inputs, *answers, None, None, 10.0)


def read(tmp_path, name):
    return np.asarray(Image.open(tmp_path / "samples" / name))


def test_a_normalization_is_undone(tmp_path):
    wanted = torch.randint(256, (3, 5, 4), generator=generator)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    value = (wanted / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    (one,) = media(moved(value), row_media(tmp_path, mean=mean, std=std))
    assert (one.file, one.caption, one.outlines) == ("7-input.png", "input", ())
    np.testing.assert_array_equal(read(tmp_path, one.file), wanted.movedim(0, -1))


@pytest.mark.parametrize(
    ("value", "expected", "words"),
    [
        (torch.tensor([[[0.0, 0.5, 1.0]]]), [[0, 128, 255]], ""),
        (torch.tensor([[[0.0, 0.2, 0.4]]]), [[0, 51, 102]], ""),
        (torch.tensor([[[-2.0, 0.0, 2.0]]]), [[0, 128, 255]], "black is -2, white 2"),
        (torch.full((1, 1, 3), 5.0), [[0, 0, 0]], "black is 5, white 5"),
        (torch.tensor([[[3, 4, 255]]], dtype=torch.uint8), [[3, 4, 255]], ""),
    ],
)
def test_levels_of_unknown_images(value, expected, words):
    levels = Levels.of(value)
    assert levels.words == words
    np.testing.assert_array_equal(levels.pixels(value), expected)


def test_large_pictures_are_reduced(tmp_path):
    save_png(tmp_path / "a.png", np.zeros((10, 3 * LONGEST, 3), np.uint8))
    assert Image.open(tmp_path / "a.png").size == (LONGEST, 3)


def test_masks_are_reduced_without_mixing_classes(tmp_path):
    mask = torch.randint(3, (2 * LONGEST, 2 * LONGEST), generator=generator)
    answer = Answer(mask=mask)
    other = Answer(mask=torch.where(torch.arange(2 * LONGEST) < LONGEST, mask, 3))
    found = media(moved(float32=answer, row=other, label=answer), row_media(tmp_path))
    names = ["7-float32", "7-static-W4A4-on-openvino-row", "7-static-W4A4-on-openvino-difference", "7-label"]
    assert [one.file for one in found] == [f"{name}.png" for name in names]
    palette = coloured(torch.arange(256)[None])[0]
    assert len(np.unique(palette, axis=0)) > 200
    colours = np.unique(read(tmp_path, found[0].file).reshape(-1, 3), axis=0)
    np.testing.assert_array_equal(colours, np.unique(palette[:3], axis=0))
    difference = read(tmp_path, found[2].file)
    assert (difference[:, : LONGEST // 2] == 0).all()
    assert (difference[:, LONGEST // 2 :] == 255).all()


def test_boxes_are_fractions_of_the_input(tmp_path):
    before, after = Answer(boxes=(Box(2, 1, 6, 3, "cat"),)), Answer(boxes=(Box(0, 0, 8, 4, "dog"),))
    (one,) = media(moved(torch.rand(3, 4, 8), float32=before, row=after), row_media(tmp_path))
    mine, other = one.outlines
    assert (mine.x, mine.y, mine.width, mine.height, mine.words, mine.by) == (
        0.25,
        0.25,
        0.5,
        0.5,
        "cat",
        "float32",
    )
    assert (other.x, other.y, other.width, other.height, other.words, other.by) == (0, 0, 1, 1, "dog", "row")


def test_what_int8_sees_is_the_rounded_input(tmp_path):
    value = images(4)
    for bits in (8, 3):
        program = quantize(
            residual(), "static", calibration=[value], target="openvino", options=options(end_bits=bits)
        )
        found = media(moved(value[0]), row_media(tmp_path, program))
        levels = Levels.of(value[0])
        (node,) = [
            node
            for node in program.module.graph.nodes
            if "fake_quantize_per_tensor" in str(node.target) and node.args[0].op == "placeholder"
        ]
        scale, zero_point, qmin, qmax = node.args[1:5]
        integers = np.clip(np.round(value[0].numpy() / scale) + zero_point, qmin, qmax)
        seen = levels.pixels(torch.tensor((integers - zero_point) * scale)).astype(int)
        difference = np.abs(seen - levels.pixels(value[0])).max()
        if bits == 8:
            (one,) = found
            assert one.caption.endswith(f"8-bit rounding moves pixels by {difference} of 255 levels at most")
            continue
        assert difference > 2
        assert found[1].caption == "what the network sees, in 3 bits"
        drawn = read(tmp_path, found[1].file).transpose(2, 0, 1)
        np.testing.assert_allclose(drawn, seen.transpose(2, 0, 1), atol=1)


@pytest.mark.parametrize("shape", [(-1,), (1, -1)])
def test_a_sound_is_16_bit(tmp_path, shape):
    rate = 100
    values = torch.sin(torch.arange(rate * (SECONDS + 1)) / 3)
    (one,) = media(moved(torch.arange(2), 4 * values.reshape(shape)), row_media(tmp_path, sample_rate=rate))
    assert one.caption == f"input; the first {SECONDS} s, divided by its peak {4 * values.abs().max():.3g}"
    with wave.open(str(tmp_path / "samples" / one.file)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, rate)
        read_back = np.frombuffer(sound.readframes(10**6), "<i2")
    kept = values.numpy()[: rate * SECONDS]
    np.testing.assert_allclose(read_back, np.round(32767 * kept / np.abs(kept).max()), atol=1)


def test_a_quiet_sound_stays_quiet():
    samples, words = waveform(torch.tensor([0.0, 0.5, -0.25]), 10)
    assert samples.tolist() == [0, 16384, -8192]
    assert words == ""


def test_outputs_that_are_images_are_drawn_by_the_same_levels(tmp_path):
    values = torch.tensor([[[0.0, 4.0], [2.0, 0.0]]])
    before, after = Answer(signal=values), Answer(signal=values + 1)
    first, second = media(moved(float32=before, row=after), row_media(tmp_path))
    assert read(tmp_path, first.file).tolist() == [[0, 255], [128, 0]]
    assert read(tmp_path, second.file).tolist() == [[64, 255], [191, 64]]
    assert second.caption == "output of this row; black is 0, white 4"


@pytest.mark.parametrize(
    "inputs",
    [
        (torch.arange(9),),  # tokens
        (torch.rand(65, 40),),  # a spectrogram
        (torch.rand(5, 4, 4),),
        (torch.full((3, 4, 4), math.nan),),
        (torch.rand(16000),),  # of no known rate
        (),
    ],
)
def test_other_inputs_have_no_picture(tmp_path, inputs):
    assert media(moved(*inputs), row_media(tmp_path)) == ()
    assert list(tmp_path.iterdir()) == []


def test_without_pillow_there_are_words_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("zeropoint.measure.pictures.pillow_is_missing", lambda: True)
    assert media(moved(torch.rand(3, 4, 4)), row_media(tmp_path)) == ()
