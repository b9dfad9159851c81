"""TrainingOptions: how to train, as data."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from zeropoint.errors import Count, NotNegative, Positive, Share, check_fields, check_name

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

    epochs: Count = 3
    learning_rate: Positive | None = None
    optimizer: str = "adamw"
    weight_decay: NotNegative = 0.0
    warmup: Share = 0.1
    accumulate: Count = 1
    average: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    precision: str = "auto"
    compile: bool = False
    minutes: Positive = 10.0
    seed: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        check_name("optimizer", self.optimizer, OPTIMIZERS)
        check_name("precision", self.precision, PRECISIONS)
        check_fields(self)
