"""datasets:DIR: what Hugging Face's datasets saved."""

import io
import json
import sys

import numpy as np
import pytest
import torch
import word_tokenizer
from saved_datasets import (
    IMAGE,
    NUMBER,
    STRING,
    change,
    classes,
    picture,
    stored,
    types,
    write,
    write_splits,
)

from zeropoint.data import batches, resolve, task_of
from zeropoint.errors import InputError
from zeropoint.models.source import Preprocessing

pa = pytest.importorskip("pyarrow")
PLAIN = Preprocessing(resize=8, crop=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
ANIMALS = {"image": IMAGE, "label": classes("cat", "dog", "eel")}
REVIEWS = {"text": STRING, "label": classes("bad", "good")}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "very"]
CONFIG = {"model_type": "bert", "vocab_size": 7, "max_position_embeddings": 12}


def animals(rows=20, first=0):
    numbers = range(first, first + rows)
    return {"image": [picture(5 * n) for n in numbers], "label": [n % 3 for n in numbers]}


def reviews(rows=20):
    """Texts of ``n`` times the word "very" at most 7, then bad or good."""
    return {
        "text": ["very " * (n % 8) + ("bad", "good")[n % 2] for n in range(rows)],
        "label": [n % 2 for n in range(rows)],
    }


def shades(loader):
    """(number that an image was drawn with, label) of every image."""
    pairs = [pair for images, labels in loader for pair in zip(images, labels.tolist(), strict=True)]
    return [(round(float(image.mean()) * 51), label) for image, label in pairs]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return word_tokenizer.save(tmp_path_factory.mktemp("tokenizer"), WORDS, CONFIG)


def test_images_of_several_files_are_prepared_and_labelled(tmp_path):
    said = []
    folder = write(tmp_path / "saved", ANIMALS, animals(), shards=3)
    loaders = resolve(f"datasets:{folder}", batch_size=3, preprocessing=PLAIN, say=said.append)
    told = "20 images in 3 classes, resized to 8, cropped to 8x8, mean (0, 0, 0), std (1, 1, 1)"
    assert said == [f"data: {told}"]
    images, labels = next(iter(loaders.evaluation))
    assert (images.shape, images.dtype, labels.dtype) == ((3, 3, 8, 8), torch.float32, torch.int64)
    found = [*shades(loaders.calibration), *shades(loaders.evaluation)]
    assert sorted(found) == [(n, n % 3) for n in range(20)]
    assert (loaders.mean, loaders.std, loaders.train) == (PLAIN.mean, PLAIN.std, None)
    assert batches.class_names(loaders.evaluation) == ("cat", "dog", "eel")
    assert task_of(f"datasets:{folder}") is None


def test_files_are_those_that_the_state_lists(tmp_path):
    folder = write(tmp_path / "saved", ANIMALS, animals(12), shards=3)
    files = [{"filename": f"data-0000{n}-of-00003.arrow"} for n in (2, 0)]
    change(folder / "state.json", _data_files=files)
    loaders = resolve(f"datasets:{folder}", preprocessing=PLAIN)
    found = {n for n, _ in [*shades(loaders.calibration), *shades(loaders.evaluation)]}
    assert found == {0, 1, 2, 3, 8, 9, 10, 11}
    rows = loaders.evaluation.dataset.dataset
    assert [round(float(rows[n][0].mean()) * 51) for n in (0, 4)] == [8, 0]  # in the order of the list


def test_files_stay_on_the_disk(tmp_path):
    before = pa.total_allocated_bytes()
    noise = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8).tobytes()
    columns = {"image": [{"bytes": noise, "path": None}] * 20, "label": [0] * 20}
    loaders = resolve(f"datasets:{write(tmp_path / 'saved', ANIMALS, columns)}", preprocessing=PLAIN)
    assert pa.total_allocated_bytes() - before < 1 << 20
    with pytest.raises(InputError, match=r"cannot read the image of row \d+ of .*saved: cannot identify"):
        next(iter(loaders.evaluation))


@pytest.mark.parametrize("name", ["validation", "val", "test"])
def test_splits_are_to_train_and_to_evaluate_on(tmp_path, name):
    splits = {"train": animals(20), "other": animals(5), name: animals(6, first=30)}
    folder = write_splits(tmp_path / "saved", ANIMALS, **splits)
    loaders = resolve(f"datasets:{folder}", batch_size=4, preprocessing=PLAIN)
    assert loaders.description.startswith("6 images to evaluate and 20 to train on in 3 classes, resized")
    assert sorted(n for n, _ in shades(loaders.evaluation)) == list(range(30, 36))
    trained, held = ([n for n, _ in shades(loader)] for loader in (loaders.train, loaders.validation))
    assert sorted(trained + held) == list(range(20))
    assert {n for n, _ in shades(loaders.calibration)} < set(trained)
    alone = resolve(f"datasets:{folder / 'other'}", preprocessing=PLAIN)  # a split is such a folder, too
    assert sorted(n for n, _ in shades(alone.evaluation)) == sorted({*range(5)} - {*calibrated(alone)})


def calibrated(loaders):
    return [n for n, _ in shades(loaders.calibration)]


def test_the_first_split_of_several_names_evaluates(tmp_path):
    splits = {"train": animals(20), "test": animals(5), "validation": animals(6, first=30)}
    folder = write_splits(tmp_path / "saved", ANIMALS, **splits)
    assert sorted(n for n, _ in shades(resolve(f"datasets:{folder}", preprocessing=PLAIN).evaluation)) == [
        *range(30, 36)
    ]
    folder = write_splits(tmp_path / "alone", ANIMALS, train=animals(20))
    loaders = resolve(f"datasets:{folder}", preprocessing=PLAIN)
    assert loaders.train is None
    assert len(shades(loaders.evaluation)) == 16


def test_images_stand_upright_and_may_lie_in_files(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = 255  # the upper row
    turned = image.Exif()
    turned[0x0112] = 6  # turn by 90° clockwise
    held = io.BytesIO()
    image.fromarray(pixels).save(held, "PNG", exif=turned)
    image.fromarray(pixels).save(tmp_path / "stored.png")
    cells = [{"bytes": held.getvalue(), "path": "x.png"}, *[stored(tmp_path / "stored.png")] * 4]
    folder = write(tmp_path / "saved", ANIMALS, {"image": cells, "label": [0] * 5})
    rows = resolve(f"datasets:{folder}", preprocessing=PLAIN).evaluation.dataset.dataset
    assert rows[0][0][0].sum(0).tolist() == [0] * 7 + [8]  # the right column
    assert rows[1][0][0].sum(1).tolist() == [8] + [0] * 7


def test_texts_go_through_the_tokenizer(tmp_path, tokenizer):
    folder = write(tmp_path / "saved", REVIEWS, reviews(), shards=2)
    loaders = resolve(f"datasets:{folder}", tokenizer=str(tokenizer), batch_size=3)
    assert loaders.description == "20 texts in 2 classes (bad 0, good 1), cut or padded to 12 tokens"
    rows = loaders.evaluation.dataset.dataset
    for number, text in enumerate(reviews()["text"]):
        ids = [2, *[WORDS.index(word) for word in text.split()], 3]
        assert rows[number]["input_ids"].tolist() == ids + [0] * (12 - len(ids))
        assert rows[number]["attention_mask"].tolist() == [1] * len(ids) + [0] * (12 - len(ids))
        assert int(rows[number]["labels"]) == number % 2
    batch = next(iter(loaders.calibration))
    assert list(batch) == ["input_ids", "attention_mask", "labels"]
    assert [batch["input_ids"].shape, batch["labels"].shape] == [(3, 12), (3,)]
    assert task_of(f"datasets:{folder}@{tokenizer}@6") == "text-classification"
    shorter = resolve(f"datasets:{folder}@{tokenizer}@6")
    assert shorter.description.endswith("cut or padded to 6 tokens")


def test_texts_without_labels_are_their_own_targets(tmp_path, tokenizer):
    columns = {"line": reviews()["text"], "length": [3] * 20}
    folder = write(tmp_path / "saved", {"line": STRING, "length": NUMBER}, columns)
    loaders = resolve(f"datasets:{folder}@{tokenizer}@4")
    assert loaders.description == "20 texts, cut or padded to 4 tokens"
    assert loaders.evaluation.dataset.dataset[0]["labels"].tolist() == [2, 5, 3, -100]
    assert task_of(f"datasets:{folder}") == "language-modelling"


def test_classes_have_the_numbers_of_the_model_if_it_has_them_all(tmp_path, tokenizer):
    folder = write(tmp_path / "saved", REVIEWS, reviews())
    numbered = write(tmp_path / "numbered", REVIEWS | {"label": NUMBER}, reviews())
    try:
        for names, told, expected in (
            ("GOOD fair BAD", " (bad 2, good 0)", [2, 0]),
            ("no yes perhaps", " (bad 0, good 1)", [0, 1]),
            ("good fair worse", " (bad 0, good 1)", [0, 1]),
        ):
            known = {name: number for number, name in enumerate(names.split())}
            config = {"id2label": {str(n): name for name, n in known.items()}, "label2id": known}
            (tokenizer / "config.json").write_text(json.dumps(CONFIG | config))
            loaders = resolve(f"datasets:{folder}@{tokenizer}")
            assert f"in 2 classes{told}, cut" in loaders.description
            rows = loaders.evaluation.dataset.dataset
            assert [int(rows[n]["labels"]) for n in range(4)] == expected * 2
            loaders = resolve(f"datasets:{numbered}@{tokenizer}")
            assert "in 2 classes, cut" in loaders.description
            assert [int(loaders.evaluation.dataset.dataset[n]["labels"]) for n in range(4)] == [0, 1] * 2
    finally:
        (tokenizer / "config.json").write_text(json.dumps(CONFIG))


SPLITS = "has the splits train, rest; give one, as in datasets:.*/train, or call one validation"


def test_splits_that_do_not_fit_are_told(tmp_path):
    folder = write_splits(tmp_path / "a", ANIMALS, train=animals(9), rest=animals(9))
    with pytest.raises(InputError, match=SPLITS):
        resolve(f"datasets:{folder}")
    folder = write_splits(tmp_path / "b", ANIMALS, train=animals(9), test=animals(9))
    names = {"image": IMAGE, "label": classes("dog", "cat", "eel")}
    change(folder / "test" / "dataset_info.json", features=names)
    with pytest.raises(InputError, match="the classes have other numbers in train and val"):
        resolve(f"datasets:{folder}")
    change(folder / "test" / "dataset_info.json", features=names | {"label": classes("cat", "dog", "fox")})
    with pytest.raises(InputError, match="class eel is in only one of train and val"):
        resolve(f"datasets:{folder}")
    change(folder / "dataset_dict.json", splits=["train", "validation"])
    with pytest.raises(InputError, match=r"no such folder: .*/b/validation"):
        resolve(f"datasets:{folder}")
    change(folder / "dataset_dict.json", splits=["../a"])
    with pytest.raises(InputError, match=r"names '../a', which is not in it"):
        resolve(f"datasets:{folder}")


FLOAT = {"dtype": "float32", "_type": "Value"}
NESTED = [{"dtype": "int64", "_type": "Value"}]
SOUND = {"_type": "Audio", "sampling_rate": 16000}


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"x": FLOAT, "s": SOUND, "n": NESTED}, r"only x \(float32\), s \(Audio\), n \(nested\)$"),
        ({}, r"has no column of images or texts, only no columns$"),
        ({"a": IMAGE, "b": IMAGE}, "several columns of images: a, b; call one image: rename_column"),
        ({"a": STRING, "b": STRING}, "several columns of texts: a, b; call one text: rename_column"),
        ({"image": IMAGE, "number": NUMBER}, "has images without labels; add a column label"),
        ({"text": STRING, "a": classes("x"), "b": classes("y")}, "several columns of classes: a, b; call"),
        ({"text": STRING, "label": FLOAT}, "the column label is float32, no classes; class_encode_column"),
        ({"text": STRING, "t": STRING, "label": STRING}, "the column label is string, no classes"),
        ({"image": IMAGE, "label": NESTED}, "the column label is nested, no classes"),
        ({"photo": IMAGE, "label": NUMBER}, r"has no column photo in its .arrow files"),
        ({"label": STRING, "text": STRING}, "the column label is string"),
        ({"image": STRING}, r"the column image is struct<bytes: binary, path: string> in its files"),
    ],
)
def test_columns_that_cannot_be_read_are_told(tmp_path, tokenizer, features, message):
    folder = write(tmp_path / "saved", ANIMALS, animals(6))
    change(folder / "dataset_info.json", features=features)
    with pytest.raises(InputError, match=message):
        resolve(f"datasets:{folder}", tokenizer=str(tokenizer))


@pytest.mark.parametrize(
    ("features", "columns", "message"),
    [
        (ANIMALS, {"label": [0, 1, -1] * 3}, "the column label has -1, no class of 0 to 2; leave such rows"),
        (ANIMALS, {"label": [0, 1, 3] * 3}, "the column label has 3, no class of 0 to 2"),
        (ANIMALS | {"label": NUMBER}, {"label": [0, 5, -1] * 3}, "the column label has -1, no class number"),
        (ANIMALS, {"label": [0, None, 1] * 3}, "3 rows have no label; leave these out with filter"),
        (ANIMALS, {"image": [None] * 9}, "9 rows have no image; leave these out with filter"),
        (ANIMALS, {"image": [stored("none.png")] * 9}, "cannot read the image none.png: .*No such file"),
        (ANIMALS, {"image": [{}] * 9}, r"the image of row \d of .*/saved is empty; leave it out"),
        (ANIMALS, {"image": [], "label": []}, "has only 0 images, too few"),
    ],
)
def test_rows_that_cannot_be_read_are_told(tmp_path, features, columns, message):
    folder = write(tmp_path / "saved", features, animals(9) | columns)
    with pytest.raises(InputError, match=message):
        next(iter(resolve(f"datasets:{folder}").evaluation))


def test_labels_that_are_no_integers_in_the_files_are_told(tmp_path):
    folder = write(tmp_path / "saved", {"text": STRING, "label": STRING}, {"text": ["a"], "label": ["b"]})
    change(folder / "dataset_info.json", features=REVIEWS)
    with pytest.raises(InputError, match="the column label is string in its files"):
        resolve(f"datasets:{folder}")


def test_a_folder_that_was_not_saved_is_told(tmp_path):
    saved = write(tmp_path / "saved", ANIMALS, animals(9))
    for spec, message in (
        (f"datasets:{tmp_path / 'none'}", "no such folder: .*/none; give a folder that save_to_disk"),
        (f"datasets:{tmp_path}", "has no state.json; give a folder that save_to_disk of datasets wrote"),
        (f"datasets:{saved}@64", f"holds images, which have no tokens; give datasets:{saved}$"),
        (f"datasets:{saved}@words", f"holds images, which have no tokens; give datasets:{saved}$"),
    ):
        with pytest.raises(InputError, match=message):
            resolve(spec)
    for file, content, message in (
        ("state.json", "{", r"cannot read .*/state.json: truncated or not JSON"),
        ("state.json", "{}", r"cannot read .*/state.json: Object missing required field `_data_files`"),
        ("state.json", '{"_data_files": []}', "lists no files"),
        ("state.json", '{"_data_files": [{"filename": "/dev/zero"}]}', "names '/dev/zero', which is not in"),
        ("dataset_info.json", '{"features": null}', r"Expected `object`, got `null` - at `\$.features`"),
    ):
        before = (saved / file).read_text()
        (saved / file).write_text(content)
        with pytest.raises(InputError, match=message):
            resolve(f"datasets:{saved}")
        (saved / file).write_text(before)
    (saved / "dataset_info.json").unlink()
    with pytest.raises(InputError, match=r"has no dataset_info.json; give a folder"):
        resolve(f"datasets:{saved}")


@pytest.mark.parametrize("key", ["_indices_files", "_indices_data_files"])
def test_a_selection_of_rows_is_refused(tmp_path, key):
    folder = write(tmp_path / "saved", ANIMALS, animals(9))
    change(folder / "state.json", **{key: None})
    resolve(f"datasets:{folder}")
    change(folder / "state.json", **{key: [{"filename": "indices.arrow"}]})
    with pytest.raises(InputError, match=r"is a selection of the rows in its files, .* call flatten_indices"):
        resolve(f"datasets:{folder}")


@pytest.mark.parametrize("left", [0, 3, 100, 1000, -9, -8, -1])
def test_files_that_are_cut_off_are_told(tmp_path, left):
    folder = write(tmp_path / "saved", ANIMALS, animals(20), shards=2)
    file = folder / "data-00001-of-00002.arrow"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(InputError, match=r"cannot read .*data-00001-of-00002.arrow: .*again$"):
        resolve(f"datasets:{folder}")
    file.unlink()
    with pytest.raises(InputError, match=r"cannot read .*data-00001-of-00002.arrow: .*No such file"):
        resolve(f"datasets:{folder}")


def test_files_of_other_types_are_told(tmp_path):
    folder = write(tmp_path / "saved", ANIMALS, animals(20), shards=2)
    other = write(tmp_path / "other", {"image": IMAGE, "label": STRING}, {"image": [{}], "label": ["a"]})
    (other / "data-00000-of-00001.arrow").rename(folder / "data-00001-of-00002.arrow")
    with pytest.raises(InputError, match=r"cannot read .*/saved: .*; copy or save the folder again"):
        resolve(f"datasets:{folder}")


def test_offsets_that_point_elsewhere_are_told(tmp_path, tokenizer):
    folder = write(tmp_path / "saved", REVIEWS, reviews(4) | {"label": [0] * 4})
    file = folder / "data-00000-of-00001.arrow"
    ends = np.cumsum([0, *map(len, reviews(4)["text"])], dtype="<i4")
    content = file.read_bytes()
    assert content.count(ends.tobytes()) == 1
    wrong = np.array([*ends[:2], 1 << 30, *ends[3:]], dtype="<i4")
    file.write_bytes(content.replace(ends.tobytes(), wrong.tobytes()))
    change(folder / "state.json", _data_files=[{"filename": file.name}] * 3)
    loaders = resolve(f"datasets:{folder}@{tokenizer}")
    with pytest.raises(InputError, match=r"cannot read row \d+ of .*/saved: .*again$"):
        list(loaders.evaluation)


def test_the_package_that_is_missing_is_told(tmp_path, monkeypatch):
    folder = write(tmp_path / "saved", ANIMALS, animals(9))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = r"pyarrow is not installed; run: pip install 'zeropoint\[datasets\]'"
    with pytest.raises(InputError, match=message):
        resolve(f"datasets:{folder}")


def test_large_strings_are_texts(tmp_path, tokenizer):
    folder = write(tmp_path / "saved", REVIEWS, reviews(10))
    file = folder / "data-00000-of-00001.arrow"
    schema = pa.schema([("text", pa.large_string()), ("label", types()["ClassLabel"])])
    table = pa.Table.from_pydict(reviews(10), schema=schema)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
        stream.write_table(table)
    large = {"text": {"dtype": "large_string", "_type": "Value"}}
    change(folder / "dataset_info.json", features=REVIEWS | large)
    rows = resolve(f"datasets:{folder}@{tokenizer}").evaluation.dataset.dataset
    assert rows[9]["input_ids"].tolist() == [2, 6, 4, 3] + [0] * 8
