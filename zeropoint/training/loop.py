"""The training loop of float training and of quantization-aware training."""

import math
import operator
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.optim.lr_scheduler import LambdaLR

from zeropoint import progress
from zeropoint.data.batches import Loader, split
from zeropoint.data.nested import replaced
from zeropoint.errors import InputError, InputWarning, first_line
from zeropoint.graph.program import flat_tensors
from zeropoint.memory import keeping_freed
from zeropoint.torch_private.compiler import compile_error
from zeropoint.torch_private.graphs import write_code
from zeropoint.training import randomness
from zeropoint.training.checkpoint import Checkpoint
from zeropoint.training.labels import check_data, check_labels
from zeropoint.training.optimizers import RATE, decayed, moving_average, optimizer, warm_cosine
from zeropoint.training.options import TrainingOptions
from zeropoint.training.processes import is_first, join, move, share, total
from zeropoint.training.record import Record, recording
from zeropoint.training.stopping import Stop, deferred
from zeropoint.training.task import Loss, Task, Training, cross_entropy

if TYPE_CHECKING:
    from lightning_fabric import Fabric

NOTED = 25  # steps between two lines of the record


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

    The best epoch has the highest accuracy on ``validation``, or the lower loss if accuracies are equal; the
    start counts as epoch 0. The result must be judged on other data. Without ``validation`` the last epoch
    is kept. A GraphModule is trained as it is; any other module is trained in train mode and left in eval
    mode. ``folder`` gets the metrics.

    A ``checkpoint`` is saved after every epoch, every ``options.minutes``, and before Ctrl-C and SIGTERM stop
    the training. Training goes on from it to the same bits. With more ``options.epochs`` than before, each
    step that is left has the learning rate of a training of that many epochs.

    It runs on a GPU if there is one, and together with the other processes that ``torchrun`` started, each of
    which has its rows of every batch. The module is left on the CPU.

    Raises InputError if a batch has no labels or wrong ones, there is less than one batch, the loss is no
    longer finite, or the module cannot be compiled.
    """
    check_data(loader, labelled=task.is_classifier)
    fabric = join(options.precision)
    with randomness.kept(), checkpoint.tells("training"), deferred(checkpoint.path is not None) as stop:
        try:
            result = _Loop(task, loader, options, fabric, checkpoint, stop).run(validation, folder)
        except compile_error() as error:
            raise InputError(f"cannot compile: {first_line(error)}; train without --compile") from error
    _set_mode(task.module, training=False)
    move(task.module, torch.device("cpu"))
    return result


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
                write_code(network)
        groups = task.parameter_groups
        groups = decayed(self.module, options.weight_decay) if groups is None else groups
        self.optimizer = optimizer(groups, options)
        self.batches = operator.length_hint(loader) or sum(1 for _ in loader)
        self.steps = options.epochs * -(-self.batches // options.accumulate)
        module: Any = torch.compile(self.module, dynamic=False) if options.compile else self.module
        self.loss: Loss = task.loss
        if options.compile and task.is_classifier:
            self.loss = torch.compile(task.loss, dynamic=False)
        self.trained, self.stepper = fabric.setup(module, self.optimizer)
        self.averaged = moving_average(self.module, options.average) if options.average else None
        self.step, self.epoch, self.batch = 0, 1, 0  # ``batch``: of the epoch's batches, those done
        self.rows = 0  # of a full batch in this process
        self.sums = [0.0, 0.0, 0.0]  # of the epoch so far: losses, right classes, rows
        self.losses: list[float] = []
        self.start: float | None = None  # accuracy before the first step
        self.judged = 0.0  # rows of the validation data
        self.best, self.best_epoch, self.best_state = (-1.0, 0.0), 0, dict[str, Tensor]()
        self.stopping, self.saved = False, time.monotonic()

    def run(self, validation: Loader | None, folder: Path | None) -> Training:
        """Trains from the current step to the end."""
        self._resume()
        factor = warm_cosine(self.steps, self.options.warmup)
        self.schedule = LambdaLR(self.optimizer, factor, last_epoch=self.step - 1)
        with (
            recording(folder if is_first() else None, self.step) as record,
            progress.bar("training", self.steps, self.step) as self.update,
        ):
            if validation is not None and self.start is None:
                score = self._score(validation)
                self.start = score[0]
                self._keep(score, 0)
            while self.epoch <= self.options.epochs:
                self._epoch(record)
                self._judge(validation, record)
                self.epoch, self.batch, self.sums = self.epoch + 1, 0, [0.0, 0.0, 0.0]
                self._save()
        self.module.load_state_dict(self.best_state)
        accuracy = self.best[0] if validation is not None and self.task.is_classifier else None
        return Training(self.best_epoch, accuracy, tuple(self.losses))

    @keeping_freed()
    def _epoch(self, record: Record) -> None:
        """The rest of an epoch."""
        states = None if self.batch == 0 else randomness.states()
        randomness.begin(self.options.seed, self.epoch, self.loader)
        _set_mode(self.module, training=True)
        self.stepper.zero_grad()
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
            accuracy = f", top-1 {right / rows:.2%}" if self.task.is_classifier else ""
            self.update(self.step, f"epoch {self.epoch}, loss {loss / rows:.4f}{accuracy}")
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
        self.stepper.step()
        self.stepper.zero_grad()
        self.task.after_step()
        self.schedule.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.module)
        self.step, self.batch = self.step + 1, number
        return rate

    def _note(self, record: Record, noted: list[float], rate: float) -> list[float]:
        """Records what came since the sums and time of ``noted``; gives those of now."""
        now = [*self.sums, time.monotonic()]
        loss, right, rows, seconds = (one - other for one, other in zip(now, noted, strict=True))
        numbers = {"loss": loss / rows, "accuracy": right / rows, "rows_per_second": rows / seconds}
        record(self.step, {"epoch": self.epoch, **numbers, "learning_rate": rate})
        return now

    def _descend(self, batch: Any, number: int) -> None:
        """Adds the gradients of one batch."""
        inputs, outputs, targets = self._forward(batch, f"batch {number}", "training")
        own = len(inputs[0])
        with self.fabric.autocast(), self._stance(own):
            loss = self.loss(inputs, outputs, targets)
        right = self._right(outputs, targets)
        asked = float(self.stop.asked is not None)
        *sums, stopping = total(self.fabric, float(loss.detach()) * own, right, own, asked)
        if not math.isfinite(sums[0]):
            self._fail(sums[0], number)
        # Gradients are averaged over processes, whatever their rows: this makes it the mean over all rows.
        share_of_all = own * self.fabric.world_size / sums[2]
        usual = self.options.accumulate
        in_step = min(usual, self.batches - (number - 1) // usual * usual)  # fewer at the end of an epoch
        self.fabric.backward(loss * (share_of_all / in_step))
        self.sums = [old + new for old, new in zip(self.sums, sums, strict=True)]
        if stopping:  # all processes at the same step
            self.stopping, self.stop.asked = True, self.stop.asked or signal.SIGTERM

    def _forward(self, batch: Any, where: str, doing: str) -> tuple[tuple[Tensor, ...], Any, Any]:
        """A batch's inputs, outputs and targets on the device, those of a classifier checked."""
        inputs, targets = split(batch)
        is_classifier = self.task.is_classifier
        if targets is None and is_classifier:
            raise InputError(f"{where} has no labels; {doing} needs (inputs, labels)")
        inputs = tuple(self._to_device(tensor) for tensor in inputs)
        with self._stance(len(inputs[0])):
            outputs = self.trained(*inputs)
        if not is_classifier:
            return inputs, flat_tensors(outputs), replaced(targets, Tensor, self._to_device)
        logits = _logits(outputs)
        check_labels(targets, logits.shape[1], where, rows=len(logits))
        return inputs, logits, targets.to(self.fabric.device, torch.int64)

    def _right(self, outputs: Any, targets: Any) -> int:
        """How many rows a classifier gets right."""
        return int((outputs.detach().argmax(1) == targets).sum()) if self.task.is_classifier else 0

    def _stance(self, rows: int) -> AbstractContextManager[Any]:
        """Compiled code runs for full batches of training, the one size that is worth compiling for."""
        if not self.options.compile:
            return nullcontext()
        is_full = torch.is_grad_enabled() and rows == self.rows
        stance: AbstractContextManager[Any] = torch.compiler.set_stance(
            "default" if is_full else "force_eager"
        )
        return stance

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
        raise InputError("; ".join([*parts, "lower the learning rate or fix the data"]))

    @contextmanager
    def _averages(self) -> Iterator[None]:
        """The module has the moving averages in place of its weights inside."""
        if self.averaged is None:
            yield
            return
        own = _copy(self.module)
        self.module.load_state_dict(self.averaged.module.state_dict())
        yield
        self.module.load_state_dict(own)

    def _judge(self, validation: Loader | None, record: Record) -> None:
        """Keeps the epoch that is done if it is the best one so far."""
        with self._averages():
            score = (0.0, float(self.epoch)) if validation is None else self._score(validation)
            if score > self.best:
                self._keep(score, self.epoch)
        loss, right, rows = self.sums
        numbers = {"epoch": self.epoch, "epoch_loss": loss / rows, "epoch_accuracy": right / rows}
        line = f"epoch {self.epoch} of {self.options.epochs}, loss {loss / rows:.4f}"
        if validation is not None:
            numbers |= {"validation_accuracy": score[0], "validation_loss": -score[1]}
            line += (
                f", validation top-1 {score[0]:.2%}" if self.task.is_classifier else f", then {-score[1]:.4f}"
            )
        record(self.step, numbers)
        progress.say(line)
        if self.start is not None and is_first() and has_fallen(self.start, score[0], self.judged):
            warnings.warn(
                f"after epoch {self.epoch} validation accuracy is {score[0]:.2%}, and was {self.start:.2%} at"
                f" the start: a learning rate of {self.options.learning_rate or RATE:g} may be too high",
                InputWarning,
                stacklevel=2,
            )
            self.start = 0.0  # one warning is enough

    def _keep(self, score: tuple[float, float], epoch: int) -> None:
        self.best, self.best_epoch, self.best_state = score, epoch, _copy(self.module)

    @torch.no_grad()
    def _score(self, validation: Loader) -> tuple[float, float]:
        """Accuracy (0 if no classifier) and negated mean loss, so that the greater pair is the better one."""
        _set_mode(self.module, training=False)
        right, loss, count = 0.0, 0.0, 0.0
        shared = share(validation, self.fabric.global_rank, self.fabric.world_size)
        for number, batch in enumerate(shared, start=1):
            where = f"batch {number} of the validation data"
            inputs, outputs, targets = self._forward(batch, where, "validation")
            mean = cross_entropy if self.task.is_classifier else self.loss
            right += self._right(outputs, targets)
            loss += float(mean(inputs, outputs, targets)) * len(inputs[0])
            count += len(inputs[0])
        right, loss, count = total(self.fabric, right, loss, count)
        if not count:
            raise InputError("the validation loader yields no batch; give it at least one")
        self.judged = count
        return right / count, -loss / count

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.checkpoint.path is None or not is_first():
            return
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "random": randomness.states(),
            **{name: getattr(self, name) for name in _KEPT},
        }
        self.checkpoint.save(state, f"step {self.step} of {self.steps}")

    def _resume(self) -> None:
        state = self.fabric.broadcast(self.checkpoint.load() if is_first() else None)
        if state is None:
            return
        try:
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.averaged is not None:
                self.averaged.load_state_dict(state["averaged"])
        except (RuntimeError, ValueError) as error:
            where = self.checkpoint.path
            raise InputError(f"{where} does not fit the network; delete it to start again") from error
        for name in _KEPT:
            setattr(self, name, state[name])
        randomness.restore(state["random"])


# Attributes of a loop that a checkpoint holds as they are.
_KEPT = (
    "step", "epoch", "batch", "sums", "losses", "start", "best", "best_epoch", "best_state",
)  # fmt: skip


def has_fallen(before: float, after: float, rows: float) -> bool:
    """Whether an accuracy on ``rows`` rows has fallen by more than two standard errors.

    They are those of the difference of two proportions of independent samples. Both accuracies are of the
    same rows, so the true error is smaller.
    """
    variance = (before * (1 - before) + after * (1 - after)) / rows
    return before - after > 2 * math.sqrt(variance)


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def _set_mode(module: nn.Module, training: bool) -> None:
    if not isinstance(module, GraphModule):  # a captured graph has no modes: its batch norms are eval mode's
        module.train(training)


def _logits(output: Any) -> Tensor:
    logits: Tensor = output[0] if isinstance(output, tuple | list) else output
    if logits.ndim != 2:
        raise InputError(f"the model returns shape {tuple(logits.shape)}; training needs logits (N, classes)")
    return logits
