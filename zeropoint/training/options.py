"""TrainingOptions: how to train, as data."""

from dataclasses import dataclass

from zeropoint.errors import InputError, closest

OPTIMIZERS = ("sgd", "adamw")
PRECISIONS = ("auto", "32", "bf16")


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    ``learning_rate`` is the optimizer's for a float network, by default 0.01. Through quantizers it is what
    Adam moves a weight by in a step, in steps of its grid, by default as suits the bits. It rises linearly
    over the first ``warmup`` fraction of the steps and falls as a cosine to zero. ``optimizer`` is ``sgd``,
    with Nesterov momentum of 0.9, or ``adamw``; ``weight_decay`` holds for all but vectors (biases, norms)
    and step sizes. The gradients of ``accumulate`` batches make a step. ``average`` is the decay of a moving
    average of the weights, which then takes their place; 0 for none. ``precision`` is that of arithmetic:
    ``auto`` is 32 bits on a CPU and bf16 on a GPU. ``compile`` has PyTorch's compiler make the forward and
    backward pass of full batches: a minute or two first, and faster steps. ``minutes`` lie between
    checkpoints, beside those of every epoch.
    """

    epochs: int = 3
    learning_rate: float | None = None
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    warmup: float = 0.1
    accumulate: int = 1
    average: float = 0.0
    precision: str = "auto"
    compile: bool = False
    minutes: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError(f"{self.epochs} epochs train nothing; give 1 or more")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise InputError(f"a learning rate of {self.learning_rate:g} trains nothing; give more than 0")
        if self.optimizer not in OPTIMIZERS:
            hint = closest(self.optimizer, OPTIMIZERS)
            raise InputError(f"unknown optimizer '{self.optimizer}'; {hint}")
        if self.precision not in PRECISIONS:
            raise InputError(f"unknown precision '{self.precision}'; {closest(self.precision, PRECISIONS)}")
        if self.weight_decay < 0 or not 0 <= self.warmup <= 1 or not 0 <= self.average < 1:
            raise InputError("weight decay is 0 or more, warm-up 0 to 1, the average's decay 0 to below 1")
        if self.accumulate < 1 or self.minutes <= 0:
            raise InputError("batches to accumulate and minutes between checkpoints are above 0")
