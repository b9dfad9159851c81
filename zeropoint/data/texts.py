"""Texts: a tokenizer of transformers, and what it makes of a text."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zeropoint.data.splits import counted
from zeropoint.errors import InputError, first_line
from zeropoint.models.transformers import package

TOKENS = 128  # that texts are cut or padded to, as is usual for GLUE's; fewer if the model takes fewer
SHOWN = 8  # classes whose numbers are told
IGNORED = -100  # the label of padding


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer, the ``length`` in tokens, and the number of each of the model's ``classes`` by name."""

    tokenizer: Any
    length: int
    classes: Mapping[str, int]

    def item(self, text: str, label: int | None) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, int64 (length,), and ``labels``.

        These are the ``label``; without one the tokens themselves, -100 where there is padding.
        """
        made = self.tokenizer(
            text,
            truncation=True,
            max_length=self.length,
            padding="max_length",
            return_token_type_ids=False,
            return_attention_mask=True,
        )
        ids, mask = (torch.tensor(made[key]) for key in ("input_ids", "attention_mask"))
        labels = ids.masked_fill(mask == 0, IGNORED) if label is None else torch.tensor(label)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def opened(place: str | None, tokens: int | None, data: str) -> Tokenizer:
    """The tokenizer in a folder, or of an ID of the hub, for ``data``.

    Its length is ``tokens``; for None it is TOKENS, or fewer if the tokenizer takes fewer. The classes are
    those that the config beside it names.

    Raises InputError for no ``place``, one that cannot be opened, and for too many or too few tokens.
    """
    if tokens is not None and tokens < 1:
        raise InputError(f"{data}@{tokens}: texts of {tokens} tokens are empty; give more")
    if place is None:
        fix = f"give {data}@FOLDER with the folder of a tokenizer, or a model of hf/"
        raise InputError(f"the model does not tell its tokenizer; {fix}")
    transformers = package()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except Exception as error:  # of the hub's client and of files: of any type
        fix = f"give a folder that tokenizer.save_pretrained wrote, as in {data}@FOLDER"
        raise InputError(f"cannot open the tokenizer of {place}: {first_line(error)}; {fix}") from error
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token  # any: the mask leaves it out
    classes, most = _of_config(place, tokenizer.model_max_length)
    if tokens is not None and tokens > most:
        raise InputError(f"{data}@{tokens}: {place} takes at most {most} tokens; give fewer")
    return Tokenizer(tokenizer, tokens or min(TOKENS, most), classes)


def described(classes: int, numbers: Mapping[str, int], length: int) -> str:
    """In words: the classes, with the numbers of those that have names, if there are any, and the length."""
    inside = f" in {counted(classes)}" if classes else ""
    shown = ", ".join(f"{name} {number}" for name, number in list(numbers.items())[:SHOWN])
    return f"{inside}{f' ({shown})' if shown else ''}, cut or padded to {length} tokens"


def stacked(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch."""
    return {key: torch.stack([item[key] for item in items]) for key in items[0]}


def _of_config(place: str, most: int) -> tuple[dict[str, int], int]:
    """The numbers of the classes that the config of a model names, and the most tokens that it takes."""
    try:
        config = package().AutoConfig.from_pretrained(place, trust_remote_code=False)
    except Exception:  # a tokenizer may come without a model
        return {}, most
    named = dict(getattr(config, "label2id", None) or {})
    usual = all(re.fullmatch(r"LABEL_\d+", name) for name in named)  # what a config without names has
    return {} if usual else named, min(most, getattr(config, "max_position_embeddings", None) or most)
