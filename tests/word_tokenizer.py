"""A tokenizer of whole words, as a folder of transformers."""

import json

import pytest


def save(place, words, config):
    """Writes the tokenizer of these ``words``, and beside it the ``config`` of a model; gives the folder."""
    transformers = pytest.importorskip("transformers")
    (place / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(vocab=str(place / "vocab.txt")).save_pretrained(place)
    (place / "config.json").write_text(json.dumps(config))
    return place
