"""Trainings that are cut off go on to the weights that they would have had."""

import copy
import logging
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from zeropoint import cli
from zeropoint.data.batches import limit
from zeropoint.errors import InputError
from zeropoint.training.checkpoint import Checkpoint
from zeropoint.training.loop import train
from zeropoint.training.options import TrainingOptions
from zeropoint.training.record import read
from zeropoint.training.task import Task

OFTEN = 1e-9  # minutes between checkpoints: one after every step


class CutError(Exception):
    """The power goes."""


class Augmented:
    """Batches in an order of each epoch's own, with noise from three sources; cut off after ``batches``."""

    def __init__(self, batches: int | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(40) % 3
        inputs = torch.randn(40, 4, generator=generator) + labels[:, None]
        self.loader = DataLoader(TensorDataset(inputs, labels), 8, shuffle=True)
        self.left = batches

    def __iter__(self):
        for inputs, labels in self.loader:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise CutError
            noise = torch.rand(()) + random.random() + np.random.rand()
            yield inputs + 0.1 * noise, labels

    def __len__(self):
        return len(self.loader)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 3))


VALIDATION = [(torch.randn(16, 4, generator=torch.Generator().manual_seed(5)), torch.arange(16) % 3)]


def run(
    path: Path | None,
    options: TrainingOptions,
    batches: int | None = None,
    key: str = "k",
    loader: object = None,
) -> dict[str, Tensor]:
    module = network()
    checkpoint = Checkpoint(path, key, expected=True)
    train(
        Task(module),
        loader or Augmented(batches),
        VALIDATION,
        options,
        checkpoint=checkpoint,
        folder=path and path.parent,
    )
    return module.state_dict()


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("batches", [1, 3, 6, 7, 13, 15])
def test_it_goes_on_to_the_same_bits(tmp_path: Path, optimizer: str, batches: int):
    options = TrainingOptions(epochs=3, learning_rate=0.05, optimizer=optimizer, average=0.9, minutes=OFTEN)
    expected = run(None, options)
    path = tmp_path / "last.checkpoint"
    # One of the batches is read to look at the labels.
    with pytest.raises(CutError):
        run(path, options, batches)
    assert path.exists() == (batches > 1)
    assert_same(run(path, options), expected)
    assert_same(run(path, options), expected)  # and when there is nothing left to do


class Wrapped:
    """A loader in an object of the user's, whose generators are of its own and not the global ones."""

    def __init__(self, batches: int | None) -> None:
        self.parts = {"images": limit(Augmented(batches), 4)}
        loader = self.parts["images"].loader.loader
        loader.sampler.generator = torch.Generator().manual_seed(7)
        self.noise = [np.random.default_rng(1), np.random.RandomState(2), random.Random(3)]

    def __iter__(self):
        for inputs, labels in self.parts["images"]:
            new, old, plain = self.noise
            yield inputs + 0.1 * (new.random() + old.rand() + plain.random()), labels

    def __len__(self):
        return 4


@pytest.mark.parametrize("batches", [3, 6, 9])
def test_the_generators_of_wrapped_loaders_go_on_too(tmp_path: Path, batches: int):
    options = TrainingOptions(epochs=3, learning_rate=0.05, minutes=OFTEN)
    expected = run(None, options, loader=Wrapped(None))
    path = tmp_path / "last.checkpoint"
    with pytest.raises(CutError):
        run(path, options, loader=Wrapped(batches))
    assert_same(run(path, options, loader=Wrapped(None)), expected)


def test_between_epochs_and_with_batches_put_together(tmp_path: Path):
    options = TrainingOptions(epochs=3, learning_rate=0.05, accumulate=2, minutes=1000)
    expected = run(None, options)
    path = tmp_path / "last.checkpoint"
    with pytest.raises(CutError):
        run(path, options, 9)
    assert torch.load(path, weights_only=True)["reached"] == "step 3 of 9"
    assert_same(run(path, options), expected)


def test_more_epochs_go_on_at_the_learning_rate_of_so_many(tmp_path: Path):
    """Two epochs of one step, then two more, against the recursion of SGD written out in float64."""
    x, y = torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.tensor([0, 1])
    module = nn.Linear(2, 2, bias=False)
    start, weight = copy.deepcopy(module.state_dict()), module.weight.detach().double().clone()
    velocity = torch.zeros_like(weight)
    for done, steps in ((0, 2), (1, 2), (2, 4), (3, 4)):
        rate = 0.5 * (1 + math.cos(math.pi * done / steps)) / 2
        gradient = ((x.double() @ weight.T).softmax(1) - torch.eye(2)[y]).T @ x.double() / 2
        velocity = 0.9 * velocity + gradient
        weight -= rate * (gradient + 0.9 * velocity)
    kept = Checkpoint(tmp_path / "last.checkpoint", "k", expected=True)
    for epochs in (2, 4):
        module.load_state_dict(start)
        options = TrainingOptions(epochs=epochs, learning_rate=0.5, optimizer="sgd", warmup=0.0)
        result = train(Task(module), [(x, y)], None, options, checkpoint=kept)
        assert len(result.losses) == epochs
    torch.testing.assert_close(module.weight.detach().double(), weight, rtol=1e-5, atol=1e-6)


def test_the_record_has_every_epoch_once(tmp_path: Path):
    options = TrainingOptions(epochs=4, learning_rate=0.05, minutes=OFTEN)
    with pytest.raises(CutError):
        run(tmp_path / "last.checkpoint", options, 13)
    run(tmp_path / "last.checkpoint", options)
    lines = [line for line in read(tmp_path / "metrics.jsonl") if "validation_accuracy" in line]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 5), (2, 10), (3, 15), (4, 20)]
    assert all(0 <= line["validation_accuracy"] <= 1 for line in lines)


SIGNALLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_resuming import Augmented, VALIDATION, network
from torch import nn
from pathlib import Path
from zeropoint.training.checkpoint import Checkpoint
from zeropoint.training.loop import train
from zeropoint.training.task import Task
from zeropoint.training.options import TrainingOptions

import torch

torch.set_num_threads(2)  # as the tests do: dropout depends on it
options = TrainingOptions(epochs=3, learning_rate=0.05, minutes=1000)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.default_int_handler)
    seen = []

    def loss(inputs, logits, labels):
        seen.append(len(labels))
        if len(seen) == 7:
            os.kill(os.getpid(), number)
        return nn.functional.cross_entropy(logits, labels)

    checkpoint = Checkpoint(Path({folder!r}, number.name), "k")
    try:
        train(Task(network(), loss), Augmented(), VALIDATION, options, checkpoint=checkpoint)
    except KeyboardInterrupt as stop:
        assert signal.getsignal(number) is signal.default_int_handler
        print(number.name, stop)
"""


@pytest.mark.slow
def test_a_signal_is_obeyed_when_the_step_is_kept(tmp_path: Path):
    script = SIGNALLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment()
    )
    options = TrainingOptions(epochs=3, learning_rate=0.05, minutes=1000)
    for name in ("SIGINT", "SIGTERM"):
        assert re.search(f"^{name} .*training is saved at step 7 of 15", done.stdout, re.M), done.stderr[
            -2000:
        ]
        torch.testing.assert_close(run(tmp_path / name, options), run(None, options))


def test_a_checkpoint_that_is_damaged_or_anothers_is_told(tmp_path: Path):
    options = TrainingOptions(epochs=1, learning_rate=0.05)
    path = tmp_path / "last.checkpoint"
    run(path, options)
    with pytest.raises(InputError, match=r"cannot go on from .*last\.checkpoint"):
        run(path, options, key="of another network")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        run(path, options)


def test_a_checkpoint_of_another_structure_is_told(tmp_path: Path):
    options = TrainingOptions(epochs=1, learning_rate=0.05)
    path = tmp_path / "last.checkpoint"
    run(path, options)
    with pytest.raises(InputError, match="does not fit the network"):
        train(Task(nn.Linear(4, 3)), Augmented(), None, options, checkpoint=Checkpoint(path, "k"))


def test_nan_names_the_step_and_the_last_checkpoint(tmp_path: Path):
    module, path = network(), tmp_path / "last.checkpoint"
    steps = []

    def break_it() -> None:
        steps.append(1)
        if len(steps) == 7:
            with torch.no_grad():
                module[0].weight.fill_(float("nan"))

    task = Task(module, after_step=break_it, blame=lambda: "the first layer did it")
    told = "nan at step 8, batch 3 of epoch 2; the first layer did it; .*last.checkpoint holds step 5 of 15"
    with pytest.raises(InputError, match=told):
        train(task, Augmented(), None, TrainingOptions(epochs=3), checkpoint=Checkpoint(path, "k"))


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


def in_processes(count: int, script: str, folder: Path) -> None:
    file = folder / "script.py"
    file.write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", str(file)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


TWO = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from safetensors.torch import save_file
from zeropoint.training.loop import train
from zeropoint.training.task import Task
from zeropoint.training.processes import is_first
from zeropoint.training.options import TrainingOptions

generator = torch.Generator().manual_seed(0)
labels = torch.arange(42) % 3
inputs = torch.randn(42, 4, generator=generator) + labels[:, None]
shuffled = DataLoader(TensorDataset(inputs, labels), 8, shuffle=True)  # the last batch has two rows
plain = list(zip(inputs.split(5), labels.split(5)))
states = dict()
for name, loader in dict(shuffled=shuffled, plain=plain).items():
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    options = TrainingOptions(epochs=3, learning_rate=0.01, accumulate=2, average=0.9)
    result = train(Task(module), loader, plain, options)
    states |= {{f"{{name}}.{{key}}": value.clone() for key, value in module.state_dict().items()}}
    states[f"{{name}}.accuracy"] = torch.tensor(result.accuracy)
    states[f"{{name}}.losses"] = torch.tensor(result.losses)
if is_first():
    save_file(states, {out!r})
"""
# One of gloo's threads that outlives Python's end may take its process down with it.
THREADS = """
import atexit, os
from pathlib import Path

def threads():
    names = [Path(f"/proc/self/task/{{thread}}/comm").read_text() for thread in os.listdir("/proc/self/task")]
    Path({out!r}).with_suffix(f".{{os.environ.get('RANK', 0)}}").write_text(" ".join(names))

atexit.register(threads)  # what is registered later, while training, runs before it
"""


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path):
    outs = [tmp_path / f"{count}.safetensors" for count in (1, 2)]
    alone, beside = (TWO.format(out=str(out)) for out in outs)
    exec(alone, {})
    in_processes(2, THREADS.format(out=str(outs[1])) + beside, tmp_path)
    one, two = map(load_file, outs)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)
    for process in range(2):
        assert "gloo" not in (tmp_path / f"2.{process}").read_text()
    moved = copy.deepcopy(one["shuffled.0.weight"])
    torch.manual_seed(1)
    assert (nn.Linear(4, 8).weight - moved).abs().max() > 1e-3  # there was something to agree on


SMALL = """
import time, torch
from torch import nn

def make_model():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()
    return nn.Sequential(*layers, nn.Dropout(0.1), nn.Flatten(), nn.Linear(128, 3))

labels = torch.arange(48) % 3
images = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + labels[:, None, None, None]

class Shuffled:  # slowly, so that there is time to end it within an epoch
    def __iter__(self):
        for part in torch.randperm(48).split(8):
            time.sleep(0.2)
            yield images[part], labels[part]

    def __len__(self):
        return 6

def make_loaders():
    return {"calibration": [images[:8]], "evaluation": [(images, labels)], "train": Shuffled()}
"""


@pytest.mark.slow
def test_killed_it_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The whole command, by SIGKILL, in the first epoch and in the second one."""
    (tmp_path / "small.py").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    base = [
        *("qat", "small.py:make_model", "--data", "small.py:make_loaders", "--bits", "W4A4"),
        *("--epochs", "2", "--minutes", "0.0005", "--rounding", "nearest"),
    ]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    in_this_process([*base, "--out", str(whole)], monkeypatch)
    for step in (3, 8):
        resume = ["--resume"] if (cut / "settings.json").exists() else []
        command = [sys.executable, "-m", "zeropoint", *base, "--out", str(cut), *resume]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment())
        until = time.monotonic() + 120
        while step_of(cut / "last.checkpoint") < step and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL  # it had not ended by itself
        assert step_of(cut / "last.checkpoint") >= step
    in_this_process([*base, "--out", str(cut), "--resume"], monkeypatch)
    states = [torch.export.load(folder / "program.pt2").state_dict for folder in (whole, cut)]
    assert_same(*states)


def in_this_process(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A command, with one thread as in the processes that are killed."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["zeropoint", *arguments])
    try:
        torch.set_num_threads(1)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        torch.set_num_threads(threads)
        logging.disable(logging.NOTSET)
    assert not ended.value.code


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint reached, 0 if there is none."""
    if not checkpoint.exists():
        return 0
    return int(torch.load(checkpoint, weights_only=True)["reached"].split()[1])
