"""Training a classifier: the one loop that float training and quantization-aware training share."""

import math
import operator
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import save
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_map_only

from zeropoint.batches import Loader, split
from zeropoint.errors import InputError, closest
from zeropoint.files import atomic_write

if TYPE_CHECKING:
    from zeropoint.data import Loaders

OPTIMIZERS = {
    "sgd": lambda groups, rate: torch.optim.SGD(groups, rate, momentum=0.9, nesterov=True),
    "adamw": lambda groups, rate: torch.optim.AdamW(groups, rate),
}


@dataclass(frozen=True)
class Training:
    """How a training went: the epoch kept (from 1), its validation accuracy, the mean loss of each epoch.

    ``accuracy`` is a fraction, None where no validation data was given.
    """

    epoch: int
    accuracy: float | None
    losses: tuple[float, ...]


def train(
    module: nn.Module,
    loader: Loader,
    validation: Loader | None,
    *,
    epochs: int,
    learning_rate: float,
    optimizer: str = "sgd",
    weight_decay: float = 5e-4,
    warmup: float = 0.1,
    parameter_groups: Iterable[dict[str, Any]] | None = None,
    seed: int = 0,
) -> Training:
    """Trains ``module`` in place by cross-entropy, and leaves it with the weights of its best epoch.

    The best epoch is that of the highest accuracy on ``validation``, the lower loss breaking ties; it must be
    data that judges nothing later. None keeps the last epoch. The learning rate rises linearly over the first
    ``warmup`` fraction of the steps and falls as a cosine to zero. ``parameter_groups`` are torch.optim's,
    with their own "lr" or "weight_decay" if given; the default decays all but vectors (biases, norms). A
    GraphModule is trained as it is; any other module in train mode, and left in eval mode. It trains on a GPU
    where there is one, and is left on the CPU.

    Raises InputError where a batch has no labels or ones out of range, or the loss is no longer finite.
    """
    if epochs < 1:
        raise InputError(f"{epochs} epochs train nothing; give 1 or more")
    if optimizer not in OPTIMIZERS:
        raise InputError(f"unknown optimizer {optimizer}; {closest(optimizer, OPTIMIZERS)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _move(module, device)
    groups = _decayed(module, weight_decay) if parameter_groups is None else list(parameter_groups)
    steps = operator.length_hint(loader) or sum(1 for _ in loader)
    descent = OPTIMIZERS[optimizer](groups, learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(descent, _warm_cosine(epochs * steps, warmup))
    losses: list[float] = []
    best, best_epoch, best_state = (-1.0, 0.0), 0, module.state_dict()
    with (
        torch.random.fork_rng(),
        Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar,
    ):
        torch.manual_seed(seed)
        task = bar.add_task("training", total=epochs * steps)
        for epoch in range(1, epochs + 1):
            _set_mode(module, training=True)
            total, step = 0.0, 0
            for step, (logits, labels) in enumerate(_outputs(module, loader, device), start=1):
                loss = F.cross_entropy(logits, labels)
                if not math.isfinite(value := loss.item()):
                    where = f"step {step} of epoch {epoch}"
                    raise InputError(
                        f"the loss is {value} at {where}; lower the learning rate or mend the data"
                    )
                descent.zero_grad()
                loss.backward()
                descent.step()
                schedule.step()
                total += value
                bar.advance(task)
            if not step:
                raise InputError("the training loader yields no batch; give it at least one")
            losses.append(total / step)
            _set_mode(module, training=False)
            score = (0.0, float(epoch)) if validation is None else _score(module, validation, device)
            if score > best:
                best, best_epoch = score, epoch
                best_state = {key: value.detach().clone() for key, value in module.state_dict().items()}
            bar.update(task, description=f"epoch {epoch}: loss {losses[-1]:.4f}, best epoch {best_epoch}")
    module.load_state_dict(best_state)
    _move(module, torch.device("cpu"))
    return Training(best_epoch, None if validation is None else best[0], tuple(losses))


def train_float(
    spec: str,
    loaders: "Loaders",
    out: str | os.PathLike[str],
    *,
    weights: str = "none",
    **options: Any,
) -> Training:
    """Trains the model that ``spec`` and ``weights`` name and writes it to ``out`` (.safetensors).

    ``options`` are those of ``train``. Raises InputError as ``train`` and ``models.resolve`` do, where there
    is no training data, and, before training, where ``out`` cannot be written.
    """
    from zeropoint import models

    if loaders.train is None:
        raise InputError(f"{loaders.name} has no training data; give digits, or loaders with a train part")
    if not os.fspath(out).endswith(".safetensors"):
        raise InputError(f"cannot write {os.fspath(out)}: name a .safetensors file")
    module = models.resolve(spec, weights)
    with atomic_write(out) as path:
        try:
            result = train(module, loaders.train, loaders.validation, **options)
        except OSError as error:  # not of the file to write, which atomic_write would take it for
            raise InputError(f"cannot read the training data: {error}") from error
        state = {key: value.contiguous().clone() for key, value in module.state_dict().items()}
        # Not save_file, whose files no other user may read.
        path.write_bytes(save(state, metadata={"model": spec, "data": loaders.name}))
    return result


def _decayed(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _warm_cosine(steps: int, warmup: float) -> Any:
    """The learning rate's factor at each step (Loshchilov & Hutter 2017, equation 5, no restarts)."""
    rising = round(steps * warmup)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2

    return factor


def _move(module: nn.Module, device: torch.device) -> None:
    module.to(device)
    if isinstance(module, GraphModule):  # whose operators that make tensors name the device
        for node in module.graph.nodes:
            node.args, node.kwargs = tree_map_only(torch.device, lambda _: device, (node.args, node.kwargs))
        module.recompile()


def _set_mode(module: nn.Module, training: bool) -> None:
    if not isinstance(module, GraphModule):  # a captured graph has no modes: its batch norms are eval mode's
        module.train(training)


def _outputs(module: nn.Module, loader: Loader, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (N, classes) and checked labels (N,) of every batch."""
    for number, batch in enumerate(loader, start=1):
        inputs, labels = split(batch)
        if labels is None:
            raise InputError(f"batch {number} has no labels; training needs (inputs, labels)")
        output = module(*(tensor.to(device) for tensor in inputs))
        logits = output[0] if isinstance(output, (tuple, list)) else output
        if logits.ndim != 2:
            raise InputError(
                f"the model returns shape {tuple(logits.shape)}; training needs logits (N, classes)"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= logits.shape[1]:
            wrong = low if low < 0 else high
            raise InputError(
                f"batch {number} has the label {wrong}; the model has classes 0 to {logits.shape[1] - 1}"
            )
        yield logits, labels.to(device, torch.int64)


@torch.no_grad()
def _score(module: nn.Module, validation: Loader, device: torch.device) -> tuple[float, float]:
    """Accuracy and negated mean loss, so that the greater pair is the better one."""
    right, loss, count = 0, 0.0, 0
    for logits, labels in _outputs(module, validation, device):
        right += int((logits.argmax(1) == labels).sum())
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        count += len(labels)
    if not count:
        raise InputError("the validation loader yields no batch; give it at least one")
    return right / count, -loss / count
