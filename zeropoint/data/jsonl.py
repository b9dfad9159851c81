"""Texts in a file of JSON lines, through the tokenizer of a model of transformers, streamed."""

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.utils.data import Dataset

from zeropoint.data.loaders import Loaders
from zeropoint.data.splits import counted, split
from zeropoint.errors import InputError, closest, first_line
from zeropoint.models.transformers import package

TOKENS = 128  # that texts are cut or padded to, as is usual for GLUE's; fewer if the model takes fewer
SHOWN = 8  # classes whose numbers are told
FORM = 'give one {"text": ..., "label": ...} or {"text": ...} on each line'
IGNORED = -100  # the label of padding


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
    ``tokens``: by default TOKENS, or fewer if the tokenizer takes fewer. The file is split.

    Raises InputError for a missing file, a line that is broken, labels of several kinds, names that the model
    does not have, and a tokenizer that cannot be opened.
    """
    if tokens is not None and tokens < 1:
        raise InputError(f"jsonl:{file}@{tokens}: texts of {tokens} tokens are empty; give more")
    places, labels, kind = array("Q"), set(), None
    for place, line in _lines(file):
        if places and type(line.label) is not kind:
            raise InputError(f"{file}: text {len(places) + 1} has a label of another kind; {FORM}")
        kind = type(line.label)
        places.append(place)
        labels.add(line.label)
    if tokenizer is None:
        fix = f"give jsonl:{file}@FOLDER with the folder of a tokenizer, or a model of hf/"
        raise InputError(f"the model does not tell its tokenizer; {fix}")
    opened, known, most = _opened(tokenizer)
    named = sorted(label for label in labels if isinstance(label, str))
    numbers = _numbers(named, known, file)
    length = tokens or min(TOKENS, most)
    if length > most:
        raise InputError(f"jsonl:{file}@{tokens}: {tokenizer} takes at most {most} tokens; give fewer")
    classes = f" in {counted(len(labels))}" if kind is not type(None) else ""
    shown = ", ".join(f"{name} {numbers[name]}" for name in named[:SHOWN])
    return split(
        f"jsonl:{file}",
        _Texts(file, places, opened, length, numbers),
        batch_size=batch_size,
        seed=seed,
        noun="texts",
        how=f"{classes}{f' ({shown})' if shown else ''}, cut or padded to {length} tokens",
        collate=_stacked,
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


def _opened(place: str) -> tuple[Any, dict[str, int], int]:
    """A tokenizer, the numbers of the classes that the config beside it names, and the most tokens."""
    transformers = package()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except Exception as error:  # of the hub's client and of files: of any type
        fix = "give a folder that tokenizer.save_pretrained wrote, as in jsonl:FILE@FOLDER"
        raise InputError(f"cannot open the tokenizer of {place}: {first_line(error)}; {fix}") from error
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token  # any: the mask leaves it out
    try:
        config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
    except Exception:  # a tokenizer may come without a model
        return tokenizer, {}, tokenizer.model_max_length
    named = dict(getattr(config, "label2id", None) or {})
    usual = all(re.fullmatch(r"LABEL_\d+", name) for name in named)  # what a config without names has
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    return tokenizer, {} if usual else named, min(tokenizer.model_max_length, positions)


def _numbers(named: list[str], known: dict[str, int], file: Path) -> dict[str, int]:
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
    tokenizer: Any
    length: int
    numbers: dict[str, int]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        with self.file.open("rb") as opened:
            opened.seek(self.places[index])
            line = msgspec.json.decode(opened.readline(), type=_Line)
        made = self.tokenizer(
            line.text,
            truncation=True,
            max_length=self.length,
            padding="max_length",
            return_token_type_ids=False,
            return_attention_mask=True,
        )
        ids, mask = (torch.tensor(made[key]) for key in ("input_ids", "attention_mask"))
        if line.label is None:
            labels = ids.masked_fill(mask == 0, IGNORED)
        else:
            label = line.label if isinstance(line.label, int) else self.numbers[line.label]
            labels = torch.tensor(label)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _stacked(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([item[key] for item in items]) for key in items[0]}
