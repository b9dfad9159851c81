"""Closeness: every output tensor of a whole model beside the float model's."""

from torch import Tensor, nn

from zeropoint.data.nested import flatten
from zeropoint.measure.fidelity import FidelityMeter
from zeropoint.parts.result import Output
from zeropoint.parts.survey import Source


def compared(source: Source, model: nn.Module) -> tuple[Output, ...]:
    """How close the outputs of ``model`` are to those of the source's model, over its batches."""
    meters: dict[str, _Meter] = {}
    for wanted, found in zip(source, source.outputs(model), strict=True):
        expected, actual = flatten(wanted)[0], flatten(found)[0]
        for path in dict.fromkeys((*expected, *actual)):
            meters.setdefault(path, _Meter()).add(expected.get(path), actual.get(path))
    return tuple(meter.result(path) for path, meter in meters.items())


class _Meter:
    """Adds up the batches of one output."""

    def __init__(self) -> None:
        self.is_comparable, self.is_float = True, False
        self.fidelity = FidelityMeter()
        self.equal = self.values = 0

    def add(self, wanted: Tensor | None, found: Tensor | None) -> None:
        """Counts one batch of two tensors, or fewer where a model gave none."""
        if wanted is None or found is None or wanted.shape != found.shape:
            self.is_comparable = False
        elif wanted.is_floating_point():
            self.is_float = True
            self.fidelity.add([wanted], [found])
        else:
            self.equal += int((wanted == found).sum())
            self.values += wanted.numel()

    def result(self, name: str) -> Output:
        """What was added up."""
        if not self.is_comparable:
            return Output(name)
        if self.is_float:
            return Output(name, sqnr_db=self.fidelity.result().sqnr_db)
        return Output(name, equal=self.equal / self.values if self.values else 1.0)
