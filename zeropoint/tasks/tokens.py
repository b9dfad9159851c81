"""Tokens: a class for every token, masked tokens, and the next token.

The label -100 means that a token does not count, as in PyTorch's cross-entropy and in transformers.
"""

from typing import Any

from torch import Tensor

from zeropoint.tasks.answers import UNREAD
from zeropoint.tasks.classes import accuracy, agreement, cross_entropy, f1, reader
from zeropoint.tasks.metric import Measure, Meter, Metric, Prepare, doubled, library
from zeropoint.tasks.task import Task

IGNORED = -100

_tokens = reader("NTC", IGNORED)


def _next_tokens(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Scores and the token that follows each, where the targets are the tokens themselves."""
    scores, labels = _tokens(outputs, targets)
    return scores[:, :-1], labels[:, 1:]


def _perplexity(read: Prepare) -> Metric:
    """The exponential of the mean cross-entropy."""

    def start(*_: Any) -> Meter:
        return doubled(library("torchmetrics.text").Perplexity(ignore_index=IGNORED))

    return Metric(Measure("perplexity", higher_is_better=False), start, read)


def _task(name: str, read: Prepare, *metrics: Metric, more: tuple[Metric, ...] = ()) -> Task:
    same = agreement("NTC", "same tokens", IGNORED)
    return Task(name, metrics, more, same, cross_entropy(read, -1, IGNORED), reader=UNREAD)


TOKENS = _task(
    "token-classification",
    _tokens,
    accuracy("token accuracy", _tokens, -1, IGNORED),
    more=(f1(_tokens, -1, IGNORED),),
)
MASKED = _task(
    "masked-language-modelling",
    _tokens,
    accuracy("masked accuracy", _tokens, -1, IGNORED),
    _perplexity(_tokens),
)
LANGUAGE = _task(
    "language-modelling",
    _next_tokens,
    _perplexity(_next_tokens),
    more=(accuracy("next-token accuracy", _next_tokens, -1, IGNORED),),
)
