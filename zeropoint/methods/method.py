"""What a method is: a tuple of passes. The data that it needs and the integers that it makes follow."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from zeropoint import progress
from zeropoint.data.batches import Batch, Loader, limit
from zeropoint.graph.program import Program
from zeropoint.targets.options import Options
from zeropoint.targets.target import Target
from zeropoint.training.folder import Folder
from zeropoint.training.task import OwnLoss


@dataclass(frozen=True)
class Job:
    """What passes read beside the Program that they change.

    ``float32`` is the Program that the method began with. ``checkpoint`` is a file in which a pass that takes
    minutes keeps how far it has got, ``folder`` one for that and for metrics of training. ``loss`` is the
    user's own loss of training, of outputs and targets.
    """

    float32: Program
    target: Target
    options: Options
    calibration: Loader = ()
    train: Loader = ()
    validation: Loader | None = None
    checkpoint: Path | None = None
    folder: Folder | None = None
    loss: OwnLoss | None = None

    @property
    def calibration_batches(self) -> Iterable[Batch]:
        """As many batches of the calibration data as the options allow."""
        return limit(self.calibration, self.options.calibration_batches)


@dataclass(frozen=True)
class Pass:
    """A step of a method. ``needs`` are the data that it reads, ``integers`` what it quantizes."""

    run: Callable[[Program, Job], Program]
    needs: frozenset[str] = frozenset()
    integers: frozenset[str] = frozenset()


def step(*needs: str, integers: tuple[str, ...] = ()) -> Callable[[Callable[[Program, Job], Program]], Pass]:
    """Makes a Pass of a function that needs "calibration" or "train" data, and quantizes what is named."""
    return lambda run: Pass(run, frozenset(needs), frozenset(integers))


def run(passes: tuple[Pass, ...], program: Program, job: Job) -> Program:
    """The Program after the passes, one after the other."""
    for each in passes:
        if each.needs:  # the others take no time
            progress.say(each.run.__name__.replace("_", " "))
        program = each.run(program, job)
    return program


@dataclass(frozen=True)
class Method:
    """What a user names: passes from a float Program to a cheaper one."""

    passes: tuple[Pass, ...] = ()

    def needs(self, data: str) -> bool:
        """Whether it reads "calibration" or "train" data."""
        return any(data in each.needs for each in self.passes)

    def makes(self, integers: str) -> bool:
        """Whether it makes integers of "weights" or "activations"."""
        return any(integers in each.integers for each in self.passes)

    @property
    def quantizes(self) -> bool:
        """Whether it makes integers of anything."""
        return self.makes("weights")

    def bits(self, options: Options) -> str:
        """The bits of weights and activations, as in W4A8; empty if the method does not depend on them."""
        if not self.quantizes:
            return ""
        return options.bits if self.makes("activations") else f"W{options.weight_bits}A32"
