"""The one loop that float training and quantization-aware training share."""

import math
import operator
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_map_only

from zeropoint.data.batches import Loader, check, split
from zeropoint.errors import InputError, InputWarning, first_line
from zeropoint.memory import keeping_freed
from zeropoint.progress import is_watched
from zeropoint.training import randomness
from zeropoint.training.checkpoint import Checkpoint
from zeropoint.training.options import TrainingOptions
from zeropoint.training.processes import is_first, join, share, total
from zeropoint.training.record import Record, recording
from zeropoint.training.stopping import Stop, deferred

if TYPE_CHECKING:
    from lightning_fabric import Fabric

NOTED = 25  # steps between two lines of the record
RATE = 0.01  # where the options leaves it open
_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda groups, rate: torch.optim.SGD(groups, rate, momentum=0.9, nesterov=True),
    "adamw": lambda groups, rate: torch.optim.AdamW(groups, rate),
}

Loss = Callable[[tuple[Tensor, ...], Tensor, Tensor], Tensor]
"""From inputs, logits (N, classes) and labels (N,) to the mean loss of the rows."""


@dataclass(frozen=True)
class Training:
    """How a training went: the epoch kept, its validation accuracy, the mean loss of each epoch.

    Epochs count from 1; 0 is the start, where validation says that training did harm.

    ``accuracy`` is a fraction, None where no validation data was given.
    """

    epoch: int
    accuracy: float | None
    losses: tuple[float, ...]


def cross_entropy(_: tuple[Tensor, ...], logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of a classifier."""
    return F.cross_entropy(logits, labels)


@dataclass(frozen=True)
class Task:
    """What to train, and by what loss.

    ``parameter_groups`` are torch.optim's, with their own "lr" or "weight_decay" if given; the default decays
    all but vectors (biases, norms). ``after_step`` is called when a step has changed the parameters, and
    ``blame`` tells of one that went bad. ``teacher`` is a network that the loss asks.
    """

    module: nn.Module
    loss: Loss = cross_entropy
    parameter_groups: Sequence[dict[str, Any]] | None = None
    after_step: Callable[[], None] = lambda: None
    blame: Callable[[], str] = lambda: ""
    teacher: nn.Module | None = None


def train(
    task: Task,
    loader: Loader,
    validation: Loader | None,
    options: TrainingOptions,
    *,
    checkpoint: Checkpoint = Checkpoint(None),  # noqa: B008  # immutable
    folder: Path | None = None,
) -> Training:
    """Trains the task's module in place, and leaves it with the weights of its best epoch.

    The best epoch is that of the highest accuracy on ``validation``, the lower loss breaking ties, and the
    start one of them; it must be data that judges nothing later. None keeps the last epoch. A GraphModule is
    trained as it is; any other module in train mode, and left in eval mode. A ``checkpoint``, from which it
    goes on to the same bits, is saved after every epoch, every ``options.minutes``, and before Ctrl-C and
    SIGTERM are obeyed.
    ``folder`` is where metrics are recorded.

    On a GPU where there is one, and with the other processes that ``torchrun`` started, each of which has its
    rows of every batch; the module is left on the CPU.

    Raises InputError where a batch has no labels or ones out of range, there is less than one batch, the loss
    is no longer finite, or the module is to be compiled and cannot be.
    """
    check_data(loader)
    fabric = join(options.precision)
    with randomness.kept(), checkpoint.tells("training"), deferred(checkpoint.path is not None) as stop:
        try:
            result = _Loop(task, loader, options, fabric, checkpoint, stop).run(validation, folder)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise InputError(f"cannot compile: {first_line(error)}; train without --compile") from error
    _set_mode(task.module, training=False)
    move(task.module, torch.device("cpu"))
    return result


def check_data(loader: Loader, classes: int | None = None) -> None:
    """Raises InputError for training data that is less than a batch or has wrong labels, as far as seen."""
    data: Any = getattr(loader, "dataset", None)
    size = getattr(loader, "batch_size", None)
    if isinstance(size, int) and hasattr(data, "__len__") and len(data) < size:
        raise InputError(f"the training data has {len(data)} items, less than a batch of {size}; lower that")
    check(loader, "the training loader")
    for batch in loader:
        _, labels = split(batch)
        break
    else:
        raise InputError("the training loader yields no batch; give it at least one")
    if labels is None:
        raise InputError("the training data has no labels; give batches of (inputs, labels)")
    if classes is not None:
        known = getattr(data, "targets", None)  # as torchvision's data sets have them
        _check_labels(labels if known is None else torch.as_tensor(known), classes, "the training data")


class _Loop:
    """The state of a training, step by step."""

    def __init__(
        self,
        task: Task,
        loader: Loader,
        options: TrainingOptions,
        fabric: "Fabric",
        checkpoint: Checkpoint,
        stop: Stop,
    ) -> None:
        self.task, self.module, self.loader, self.options = task, task.module, loader, options
        self.fabric, self.checkpoint, self.stop = fabric, checkpoint, stop
        for network in (self.module, task.teacher):
            if network is not None:
                move(network, fabric.device)
        groups = task.parameter_groups
        groups = _decayed(self.module, options.weight_decay) if groups is None else groups
        self.rate = options.learning_rate or RATE
        optimizer = _OPTIMIZERS[options.optimizer](groups, self.rate)
        self.batches = operator.length_hint(loader) or sum(1 for _ in loader)
        self.steps = options.epochs * -(-self.batches // options.accumulate)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_cosine(self.steps, options.warmup))
        module: Any = torch.compile(self.module, dynamic=False) if options.compile else self.module
        self.loss: Loss = torch.compile(task.loss, dynamic=False) if options.compile else task.loss
        self.trained, self.optimizer = fabric.setup(module, optimizer)
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.averages = [p.detach().clone() for p in self.parameters] if options.average else []
        self.step, self.epoch, self.batch = 0, 1, 0  # of the epoch's batches, those done
        self.rows = 0  # of a batch, but the last one of an epoch, in this process
        self.sums = [0.0, 0.0, 0.0]  # of the epoch so far: the losses, the right ones, the rows
        self.losses: list[float] = []
        self.start: float | None = None  # accuracy before the first step
        self.best, self.best_epoch, self.best_state = (-1.0, 0.0), 0, dict[str, Tensor]()
        self.stopping, self.saved = False, time.monotonic()

    def run(self, validation: Loader | None, folder: Path | None) -> Training:
        """Trains from where it is to the end."""
        self._resume()
        watched = is_watched() and is_first()
        with (
            recording(folder if is_first() else None, self.step) as record,
            Progress(console=Console(stderr=True), disable=not watched, transient=True) as bar,
        ):
            task = bar.add_task("training", total=self.steps, completed=self.step)
            if validation is not None and self.start is None:
                score = self._score(validation)
                self.start = score[0]
                self._keep(score, 0)
            while self.epoch <= self.options.epochs:
                self._epoch(record, lambda text: bar.update(task, completed=self.step, description=text))
                self._judge(validation, record)
                self.epoch, self.batch, self.sums = self.epoch + 1, 0, [0.0, 0.0, 0.0]
                self._save()
        self.module.load_state_dict(self.best_state)
        accuracy = None if validation is None else self.best[0]
        return Training(self.best_epoch, accuracy, tuple(self.losses))

    @keeping_freed()
    def _epoch(self, record: Record, tell: Callable[[str], None]) -> None:
        """The rest of an epoch."""
        states = None if self.batch == 0 else randomness.states()
        randomness.begin(self.options.seed, self.epoch, self.loader)
        _set_mode(self.module, training=True)
        self.optimizer.zero_grad()
        noted = [*self.sums, time.monotonic()]
        shared = share(self.loader, self.fabric.global_rank, self.fabric.world_size)
        number = 0
        for number, batch in enumerate(shared, start=1):
            if number == 1:
                self.rows = len(split(batch)[0][0])
            if number <= self.batch:  # done before; the order of an epoch is its own
                if number == self.batch and states is not None:
                    randomness.restore(states)
                continue
            is_step = number == self.batches or number % self.options.accumulate == 0
            with self.fabric.no_backward_sync(self.trained, enabled=not is_step):
                self._descend(batch, number)
            if not is_step:
                continue
            rate = self._step(number)
            loss, right, rows = self.sums
            tell(f"epoch {self.epoch}: loss {loss / rows:.4f}, top-1 {right / rows:.2%}, rate {rate:.1e}")
            if self.step % NOTED == 0:
                noted = self._note(record, noted, rate)
            if self.stopping or time.monotonic() - self.saved > 60 * self.options.minutes:
                self._save()
            if self.stopping:
                self.stop.now()
        if not number:
            raise InputError("the training loader yields no batch; give it at least one")
        loss, _, rows = self.sums
        self.losses.append(loss / rows)

    def _step(self, number: int) -> float:
        """Takes the step that the epoch's batches up to this one make; gives its learning rate."""
        rate = float(self.schedule.get_last_lr()[0])
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.task.after_step()
        self.schedule.step()
        self._average()
        self.step, self.batch = self.step + 1, number
        return rate

    def _note(self, record: Record, noted: list[float], rate: float) -> list[float]:
        """Records what came since the sums and time of ``noted``; gives those of now."""
        now = [*self.sums, time.monotonic()]
        loss, right, rows, seconds = (one - other for one, other in zip(now, noted, strict=True))
        numbers = {"loss": loss / rows, "accuracy": right / rows, "rows_per_second": rows / seconds}
        record(self.step, {"epoch": self.epoch, **numbers, "learning_rate": rate})
        return now

    def _batches_in_step(self, number: int) -> int:
        """How many batches make the step that this one is in: fewer than usual at the end of an epoch."""
        usual = self.options.accumulate
        return min(usual, self.batches - (number - 1) // usual * usual)

    def _descend(self, batch: Any, number: int) -> None:
        """Adds the gradients of one batch."""
        inputs, logits, labels = self._forward(batch, f"batch {number}", "training")
        with self.fabric.autocast(), self._stance(labels):
            loss = self.loss(inputs, logits, labels)
        right = int((logits.detach().argmax(1) == labels).sum())
        own = len(labels)
        asked = float(self.stop.asked is not None)
        *sums, stopping = total(self.fabric, float(loss.detach()) * own, right, own, asked)
        if not math.isfinite(sums[0]):
            self._fail(sums[0], number)
        # Gradients are averaged over processes, whatever their rows: this makes it the mean over all rows.
        share_of_all = own * self.fabric.world_size / sums[2]
        self.fabric.backward(loss * (share_of_all / self._batches_in_step(number)))
        self.sums = [old + new for old, new in zip(self.sums, sums, strict=True)]
        if stopping:  # all processes at the same step
            self.stopping, self.stop.asked = True, self.stop.asked or signal.SIGTERM

    def _forward(self, batch: Any, where: str, doing: str) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """A batch's inputs, logits (N, classes) and checked labels (N,), on the device."""
        inputs, labels = split(batch)
        if labels is None:
            raise InputError(f"{where} has no labels; {doing} needs (inputs, labels)")
        inputs = tuple(self._to_device(tensor) for tensor in inputs)
        with self._stance(labels):
            logits = _logits(self.trained(*inputs))
        _check_labels(labels, logits.shape[1], where)
        return inputs, logits, labels.to(self.fabric.device, torch.int64)

    def _stance(self, labels: Tensor) -> AbstractContextManager[Any]:
        """Compiled code runs for full batches of training, the one size that is worth compiling for."""
        if not self.options.compile:
            return nullcontext()
        is_full = torch.is_grad_enabled() and len(labels) == self.rows
        return torch.compiler.set_stance("default" if is_full else "force_eager")

    def _to_device(self, tensor: Tensor) -> Tensor:
        """With channels last on a GPU, as its tensor cores have them."""
        if self.fabric.device.type == "cuda" and tensor.dim() == 4:
            return tensor.to(self.fabric.device, memory_format=torch.channels_last)
        return tensor.to(self.fabric.device)

    def _fail(self, value: float, number: int) -> None:
        parts = [f"the loss is {value} at step {self.step + 1}, batch {number} of epoch {self.epoch}"]
        if blamed := self.task.blame():
            parts.append(blamed)
        if (kept := self.checkpoint.reached()) is not None:
            parts.append(f"{self.checkpoint.path} holds {kept}")
        raise InputError("; ".join([*parts, "lower the learning rate or mend the data"]))

    def _average(self) -> None:
        """The moving average; it follows closely at first, or the start would outlast a short training."""
        if self.averages:
            decay = min(self.options.average, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - decay)

    def _swap(self) -> None:
        """Parameters and their averages change places."""
        with torch.no_grad():
            for parameter, average in zip(self.parameters, self.averages, strict=False):
                held = parameter.detach().clone()
                parameter.copy_(average)
                average.copy_(held)

    def _judge(self, validation: Loader | None, record: Record) -> None:
        """Keeps the epoch that has just ended if it is the best one so far."""
        self._swap()
        score = (0.0, float(self.epoch)) if validation is None else self._score(validation)
        if score > self.best:
            self._keep(score, self.epoch)
        self._swap()
        loss, right, rows = self.sums
        numbers = {"epoch": self.epoch, "epoch_loss": loss / rows, "epoch_accuracy": right / rows}
        if validation is not None:
            numbers |= {"validation_accuracy": score[0], "validation_loss": -score[1]}
        record(self.step, numbers)
        if self.start is not None and score[0] < self.start and is_first():
            warnings.warn(
                f"after epoch {self.epoch} validation accuracy is {score[0]:.2%}, and was {self.start:.2%} at"
                f" the start: a learning rate of {self.rate:g} may be too high",
                InputWarning,
                stacklevel=2,
            )
            self.start = 0.0  # once is enough

    def _keep(self, score: tuple[float, float], epoch: int) -> None:
        self.best, self.best_epoch = score, epoch
        self.best_state = {key: value.detach().clone() for key, value in self.module.state_dict().items()}

    @torch.no_grad()
    def _score(self, validation: Loader) -> tuple[float, float]:
        """Accuracy and negated mean loss, so that the greater pair is the better one."""
        _set_mode(self.module, training=False)
        right, loss, count = 0.0, 0.0, 0.0
        for number, batch in enumerate(
            share(validation, self.fabric.global_rank, self.fabric.world_size), start=1
        ):
            _, logits, labels = self._forward(batch, f"batch {number} of the validation data", "validation")
            right += int((logits.argmax(1) == labels).sum())
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            count += len(labels)
        right, loss, count = total(self.fabric, right, loss, count)
        if not count:
            raise InputError("the validation loader yields no batch; give it at least one")
        return right / count, -loss / count

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.checkpoint.path is None or not is_first():
            return
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": randomness.states(),
            **{name: getattr(self, name) for name in _KEPT},
        }
        done = f"step {self.step} of {self.steps}"
        self.checkpoint.save(state, done)

    def _resume(self) -> None:
        state = self.fabric.broadcast(self.checkpoint.load() if is_first() else None)
        if state is None:
            return
        try:
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            where = self.checkpoint.path
            raise InputError(f"{where} does not fit the network; delete it to begin anew") from error
        self.schedule.load_state_dict(state["schedule"])
        for name in _KEPT:
            setattr(self, name, state[name])
        self.averages = [average.to(self.fabric.device) for average in self.averages]
        randomness.restore(state["random"])


# What a checkpoint holds of a loop, beside what knows how to keep itself.
_KEPT = (
    "averages", "step", "epoch", "batch", "sums", "losses", "start", "best", "best_epoch", "best_state",
)  # fmt: skip


def _decayed(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _warm_cosine(steps: int, warmup: float) -> Callable[[int], float]:
    """The learning rate's factor at each step (Loshchilov & Hutter 2017, equation 5, no restarts)."""
    rising = round(steps * warmup)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2

    return factor


def move(module: nn.Module, device: torch.device) -> None:
    """Moves a module, and what its graph makes on a device, to another one."""
    module.to(device)
    if isinstance(module, GraphModule):  # whose operators that make tensors name the device
        for node in module.graph.nodes:
            node.args, node.kwargs = tree_map_only(torch.device, lambda _: device, (node.args, node.kwargs))
        module.recompile()


def _set_mode(module: nn.Module, training: bool) -> None:
    if not isinstance(module, GraphModule):  # a captured graph has no modes: its batch norms are eval mode's
        module.train(training)


def _logits(output: Any) -> Tensor:
    logits = output[0] if isinstance(output, tuple | list) else output
    if logits.ndim != 2:
        raise InputError(f"the model returns shape {tuple(logits.shape)}; training needs logits (N, classes)")
    return logits


def _check_labels(labels: Tensor, classes: int, where: str) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise InputError(f"{where} has the label {wrong}; the model has classes 0 to {classes - 1}")
