"""TrainingOptions: how to train, as data."""

from dataclasses import dataclass

from zeropoint.errors import InputError, closest

OPTIMIZERS = ("sgd", "adamw")
PRECISIONS = ("auto", "32", "bf16")


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    ``learning_rate`` of a float network is that of the optimizer, 0.01 by default. In quantization-aware
    training it is the step of Adam in steps of a weight's grid; the default depends on the bits. It rises
    linearly over the first ``warmup`` fraction of the steps, then falls as a cosine to zero. ``optimizer`` is
    ``sgd``, with Nesterov momentum 0.9, or ``adamw``. ``weight_decay`` applies to all parameters but vectors
    (biases, norms) and step sizes. The gradients of ``accumulate`` batches make one step. ``average`` is the
    decay of an exponential moving average of the weights, which replaces them at the end of training; 0 for
    none. ``precision`` ``auto`` is float32 on a CPU and bf16 on a GPU. ``compile`` compiles the forward and
    backward pass of full batches: this takes a minute or two, then steps are faster. A checkpoint is saved
    after every epoch and every ``minutes``. ``seed`` is that of the order of the data and of all else that is
    random.

    >>> zp.TrainingOptions(epochs=10, learning_rate=0.02).optimizer
    'adamw'
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
            raise InputError(
                "give a weight decay of 0 or more, a warm-up of 0 to 1, an average of 0 to below 1"
            )
        if self.accumulate < 1 or self.minutes <= 0:
            raise InputError("give 1 or more batches to accumulate, and more than 0 minutes of checkpoints")
