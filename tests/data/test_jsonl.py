"""jsonl:FILE: texts through a tokenizer."""

import json

import pytest
import torch
import word_tokenizer

from zeropoint.data import resolve, task_of
from zeropoint.errors import InputError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a", "very"]
CONFIG = {"model_type": "bert", "vocab_size": 9, "max_position_embeddings": 40}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tokenizer of whole words."""
    return word_tokenizer.save(tmp_path_factory.mktemp("tokenizer"), WORDS, CONFIG)


def write(path, count=10, label=lambda number: number % 2):
    """Texts of 1 to ``count`` times the word "very", then good or bad."""
    lines = []
    for number in range(count):
        text = {"text": "very " * (number + 1) + ("bad", "good")[number % 2]}
        lines.append(json.dumps(text if label is None else text | {"label": label(number)}))
    path.write_text("\n".join(lines) + "\n\n")
    return path


def ids(number):
    return [2, *[8] * (number + 1), (5, 4)[number % 2], 3]


def rows(loader):
    """The batches put together, with the number of every text."""
    batches = list(loader)
    made = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
    return made, [int((row == 8).sum()) - 1 for row in made["input_ids"]]


def test_texts_are_padded_and_masked(tmp_path, folder):
    file = write(tmp_path / "texts.jsonl")
    loaders = resolve(f"jsonl:{file}", tokenizer=str(folder), batch_size=3)
    made, numbers = rows(loaders.evaluation)
    assert list(made) == ["input_ids", "attention_mask", "labels"]
    assert {tensor.dtype for tensor in made.values()} == {torch.int64}
    for row, number in enumerate(numbers):
        expected = ids(number)
        assert made["input_ids"][row].tolist() == expected + [0] * (40 - len(expected))
        assert made["attention_mask"][row].tolist() == [1] * len(expected) + [0] * (40 - len(expected))
        assert made["labels"][row] == number % 2
    assert loaders.description == "10 texts in 2 classes, cut or padded to 40 tokens"
    assert task_of(f"jsonl:{file}") == "text-classification"


def test_texts_without_labels_are_their_own_targets(tmp_path, folder):
    file = write(tmp_path / "texts.jsonl", label=None)
    loaders = resolve(f"jsonl:{file}@{folder}@6")
    made, numbers = rows(loaders.evaluation)
    for row, number in enumerate(numbers):
        expected = ids(number) if number < 3 else [*ids(number)[:5], 3]  # cut, with the end of the text
        assert made["input_ids"][row].tolist() == expected + [0] * (6 - len(expected))
        assert made["labels"][row].tolist() == expected + [-100] * (6 - len(expected))
    assert loaders.description == "10 texts, cut or padded to 6 tokens"
    assert task_of(f"jsonl:{file}@6") == "language-modelling"


def test_the_file_is_split_by_the_seed(tmp_path, folder):
    file = write(tmp_path / "texts.jsonl")
    parts = {}
    for seed in (0, 0, 1):
        loaders = resolve(f"jsonl:{file}@{folder}", seed=seed, batch_size=3)
        numbers = [rows(one)[1] for one in (loaders.calibration, loaders.evaluation)]
        assert [len(part) for part in numbers] == [2, 8]
        assert sorted(numbers[0] + numbers[1]) == list(range(10))
        assert parts.setdefault(seed, numbers) == numbers
    assert parts[0] != parts[1]


def test_names_are_numbered_by_the_model_or_in_order(tmp_path, folder):
    file = write(tmp_path / "texts.jsonl", label=lambda number: ("bad", "good")[number % 2])
    loaders = resolve(f"jsonl:{file}@{folder}")
    made, numbers = rows(loaders.evaluation)
    assert made["labels"].tolist() == [number % 2 for number in numbers]
    assert "in 2 classes (bad 0, good 1)," in loaders.description
    config = CONFIG | {"id2label": {"0": "good", "1": "fair", "2": "bad"}}
    config["label2id"] = {name: int(number) for number, name in config["id2label"].items()}
    (folder / "config.json").write_text(json.dumps(config))
    try:
        made, numbers = rows(resolve(f"jsonl:{file}@{folder}").evaluation)
        assert made["labels"].tolist() == [(2, 0)[number % 2] for number in numbers]
        write(file, label=lambda number: ("badd", "good")[number % 2])
        with pytest.raises(InputError, match="the model has no class badd; did you mean bad"):
            resolve(f"jsonl:{file}@{folder}")
    finally:
        (folder / "config.json").write_text(json.dumps(CONFIG))


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("", "has only 0 texts"),
        ('{"text": "a"}\n{"text": "a", "label": 1}', "text 2 has a label of another kind"),
        ('{"text": "a", "label": 1}\n\n{"text": "a", "label": "b"}', "text 2 has a label of another kind"),
        ('{"text": "a", "label": 1}\n{"text": 3}', r"line 2: Expected `str`, got `int` - at `\$.text`"),
        ('{"label": 1}', "line 1: Object missing required field `text`"),
        ('{"text": "a", "label": 1.5}', r"line 1: Expected `int \| str \| null`, got `float`"),
        ('{"text": "a"', "line 1: Input data was truncated"),
        ('{"text": "a", "label": 1}', "has only 1 texts"),
    ],
)
def test_what_is_wrong_with_a_line_is_told(tmp_path, folder, lines, told):
    (tmp_path / "texts.jsonl").write_text(lines)
    with pytest.raises(InputError, match=told):
        resolve(f"jsonl:{tmp_path}/texts.jsonl@{folder}")


def test_what_is_missing_is_told(tmp_path, folder):
    with pytest.raises(InputError, match=r"cannot read .*nothing.jsonl: No such file"):
        resolve(f"jsonl:{tmp_path}/nothing.jsonl")
    (tmp_path / "texts.jsonl").touch()
    with pytest.raises(InputError, match=r"texts.jsonl is empty; give one"):
        task_of(f"jsonl:{tmp_path}/texts.jsonl")
    file = write(tmp_path / "texts.jsonl")
    with pytest.raises(InputError, match=r"does not tell its tokenizer; give jsonl:.*@FOLDER"):
        resolve(f"jsonl:{file}")
    with pytest.raises(InputError, match=f"cannot open the tokenizer of {tmp_path}"):
        resolve(f"jsonl:{file}@{tmp_path}")
    with pytest.raises(InputError, match="takes at most 40 tokens; give fewer"):
        resolve(f"jsonl:{file}@{folder}@41")
    with pytest.raises(InputError, match="texts of 0 tokens are empty"):
        resolve(f"jsonl:{file}@{folder}@0")
