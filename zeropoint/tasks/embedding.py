"""Embeddings: whether the nearest ones are of the same class, and the cosine to given ones."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zeropoint.errors import InputError
from zeropoint.tasks.answers import EMBEDDED
from zeropoint.tasks.metric import Measure, Metric, Sums
from zeropoint.tasks.outputs import FIX, described, main, values
from zeropoint.tasks.task import Task

GALLERY = 4096  # embeddings that are searched: the first ones, so that memory does not grow with the data


class Recall:
    """The share of samples that have one of their class among the ``k`` nearest others by cosine.

    Samples without another of their class in the gallery do not count.
    """

    metric_state: dict[str, Any] = {}  # noqa: RUF012  # none that add up

    def __init__(self, k: int) -> None:
        self._k = k
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        self._gallery, self._labels = torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)
        self._counts = torch.zeros(2, dtype=torch.float64)

    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """Fills the gallery, and searches it for what is left of the batch (N, D), labels (N,)."""
        unit = F.normalize(embeddings.float(), dim=1)
        room = GALLERY - len(self._labels)
        if room > 0:
            added = unit[:room]
            self._gallery = torch.cat([self._gallery, added]) if len(self._labels) else added
            self._labels = torch.cat([self._labels, labels[:room]])
        if len(unit) > room:
            self._counts += self._searched(unit[max(room, 0) :], labels[max(room, 0) :])

    def compute(self) -> Tensor:
        """The recall, NaN if no class has two samples."""
        counts = self._counts.clone()
        for part in torch.arange(len(self._labels)).split(256):
            counts += self._searched(self._gallery[part], self._labels[part], part)
        return counts[0] / counts[1]

    def _searched(self, queries: Tensor, labels: Tensor, own: Tensor | None = None) -> Tensor:
        """How many of the queries, which are at the places ``own`` of the gallery, have a hit, and count."""
        near, same = queries @ self._gallery.t(), labels[:, None] == self._labels
        if own is not None:
            near[torch.arange(len(own)), own] = -torch.inf
            same[torch.arange(len(own)), own] = False
        best = near.topk(min(self._k, near.shape[1]), dim=1).indices
        return torch.stack([same.gather(1, best).any(1).sum(), same.any(1).sum()])


def _of_classes(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    embeddings = main(outputs)
    if embeddings.dim() != 2:
        raise InputError(f"the outputs are {described(embeddings)}, not embeddings (N, D); {FIX}")
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.numel() != len(embeddings):
        raise InputError(f"the targets are {described(targets)}, not the class of each embedding; {FIX}")
    return embeddings, targets.reshape(-1)


def _recall(k: int) -> Metric:
    return Metric(Measure(f"recall@{k}", "%"), lambda *_: Recall(k), _of_classes)


def _cosines(outputs: Any, targets: Any) -> tuple[Tensor]:
    predicted, wanted = values(outputs, targets)
    cosines = F.cosine_similarity(predicted.double(), wanted.double(), dim=-1)
    return (cosines.reshape(len(cosines), -1).mean(1),)


def _mean(samples: Tensor) -> Tensor:
    return torch.stack([samples.sum(), torch.tensor(float(len(samples)))])


EMBEDDING = Task(
    "embedding",
    metrics=(_recall(1),),
    more=(_recall(5), Metric(Measure("cosine"), lambda *_: Sums(_mean), _cosines)),
    fidelity=Metric(
        Measure("cosine to float32"),
        lambda *_: Sums(_mean),
        lambda outputs, pair: _cosines(outputs, pair[0]),
        needs_targets=False,
    ),
    reader=EMBEDDED,
)
