"""Texts in a file of JSON lines, through the tokenizer of a model of transformers, streamed."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from torch import Tensor
from torch.utils.data import Dataset

from zeropoint.data import texts
from zeropoint.data.loaders import Loaders
from zeropoint.data.splits import split
from zeropoint.errors import InputError, closest

FORM = 'give one {"text": ..., "label": ...} or {"text": ...} on each line'


class _Line(msgspec.Struct):
    text: str
    label: int | str | None = None


def task_of(file: Path) -> str:
    """The task that the first line shows: of texts with labels, or of texts alone."""
    for _, line in _lines(file):
        return "language-modelling" if line.label is None else "text-classification"
    raise InputError(f"{file} is empty; {FORM}")


def jsonl(file: Path, tokenizer: str | None, tokens: int | None, *, batch_size: int, seed: int) -> Loaders:
    """The texts as dicts of int64 (N, tokens): ``input_ids``, ``attention_mask``, and ``labels``.

    Each line is a JSON object with ``text`` and, in every line or in none, ``label``, a number or a name.
    Names that the config beside the tokenizer has are numbered by it; if it names no classes, by their order.
    Texts without labels are for language modelling: their labels are the tokens themselves, -100 where there
    is padding. ``tokenizer`` is a folder, or an ID of the hub. Texts are cut or padded, on the right, to
    ``tokens``: by default 128, or fewer if the tokenizer takes fewer. The file is split.

    Raises InputError for a missing file, a line that is broken, labels of several kinds, names that the model
    does not have, and a tokenizer that cannot be opened.
    """
    places, labels, kind = array("Q"), set(), None
    for place, line in _lines(file):
        if places and type(line.label) is not kind:
            raise InputError(f"{file}: text {len(places) + 1} has a label of another kind; {FORM}")
        kind = type(line.label)
        places.append(place)
        labels.add(line.label)
    opened = texts.opened(tokenizer, tokens, f"jsonl:{file}")
    numbers = _numbers(sorted(label for label in labels if isinstance(label, str)), opened.classes, file)
    return split(
        f"jsonl:{file}",
        _Texts(file, places, opened, numbers),
        batch_size=batch_size,
        seed=seed,
        noun="texts",
        how=texts.described(len(labels - {None}), numbers, opened.length),
        collate=texts.stacked,
    )


def _lines(file: Path) -> Iterator[tuple[int, _Line]]:
    """Every line that is not blank, with the byte at which it begins."""
    read, place = msgspec.json.Decoder(_Line), 0
    try:
        with file.open("rb") as opened:
            for number, line in enumerate(opened, start=1):
                if line.strip():
                    try:
                        yield place, read.decode(line)
                    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                        raise InputError(f"{file}, line {number}: {error}; {FORM}") from error
                place += len(line)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}; give jsonl:FILE") from error


def _numbers(named: list[str], known: Mapping[str, int], file: Path) -> dict[str, int]:
    """The class number of each label that is a name."""
    if not known:
        return {name: number for number, name in enumerate(named)}
    if unknown := [name for name in named if name not in known]:
        raise InputError(f"{file}: the model has no class {unknown[0]}; {closest(unknown[0], known)}")
    return {name: known[name] for name in named}


@dataclass(frozen=True)
class _Texts(Dataset[dict[str, Tensor]]):
    file: Path
    places: Sequence[int]
    tokenizer: texts.Tokenizer
    numbers: dict[str, int]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        with self.file.open("rb") as opened:
            opened.seek(self.places[index])
            line = msgspec.json.decode(opened.readline(), type=_Line)
        label = self.numbers[line.label] if isinstance(line.label, str) else line.label
        return self.tokenizer.item(line.text, label)
