"""Methods by name: recipes that turn a float Program into a cheaper one."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from zeropoint import engines
from zeropoint.batches import Loader, check
from zeropoint.errors import InputError, closest
from zeropoint.methods.bf16 import bf16
from zeropoint.methods.dynamic import dynamic
from zeropoint.methods.layout import laid_out
from zeropoint.methods.pairs import within_limits
from zeropoint.methods.qat import qat
from zeropoint.methods.static import static
from zeropoint.methods.static_best import static_best
from zeropoint.methods.weight_only import weight_only
from zeropoint.options import Options
from zeropoint.program import Program
from zeropoint.target import Target


@dataclass(frozen=True)
class Method:
    """The data that a method needs, to calibrate on or labelled to train on, and what it makes integers."""

    calibrates: bool = False
    trains: bool = False
    quantizes: bool = True
    activations: bool = True

    def bits(self, options: Options) -> str:
        """Those of weights and activations, as in W4A8; empty where it has no regard to the options."""
        if not self.quantizes:
            return ""
        return options.bits if self.activations else f"W{options.weight_bits}A32"


METHODS = {
    "fp32": Method(quantizes=False),
    "bf16": Method(quantizes=False),
    "dynamic": Method(),
    "weight-only": Method(calibrates=True, activations=False),
    "static": Method(calibrates=True),
    "static-best": Method(calibrates=True),
    "qat": Method(calibrates=True, trains=True),
}
CALIBRATED = {"weight-only": weight_only, "static": static}


def find(name: str) -> Method:
    """The Method of that name; raises InputError where there is none."""
    if name not in METHODS:
        raise InputError(f"unknown method '{name}'; {closest(name, METHODS)}")
    return METHODS[name]


def check_target(rules: Target, method: str, options: Options) -> None:
    """Raises InputError, which names the engines that can, where a target cannot run a method so."""
    if reason := engines.refusal(rules, method, options):
        raise InputError(f"{rules.name} cannot run {named(method, options)}: {reason}")


def named(method: str, options: Options) -> str:
    """A method and its bits, as in "dynamic W4A8"."""
    return f"{method} {find(method).bits(options)}".rstrip()


def quantize(
    program: Program,
    method: str = "static",
    *,
    calibration: Loader | None = None,
    train: Loader | None = None,
    validation: Loader | None = None,
    target: str | Target = "openvino",
    options: Options | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Program:
    """The float ``program`` after the method of that name, quantized as suits the ``target`` engine.

    ``calibration`` yields batches as a model's loader does, labels or not; ``train`` yields labelled batches,
    and ``validation`` chooses among epochs. ``checkpoint`` is a file in which ``static-best`` and ``qat``,
    which take minutes, keep how far they have got: after an interruption the same call goes on from there, to
    the same result. The file stays; remove it when the Program is saved.

    Raises InputError for an unknown method or target, bits or a scheme that the target cannot run, data that
    the method needs and has not, data that does not fit the model, or a checkpoint that cannot be written.
    """
    recipe, options = _checked(program, method, calibration, train), options or Options()
    rules = engines.target(target, options.processor) if isinstance(target, str) else target
    check_target(rules, method, options)
    path = None if checkpoint is None else Path(checkpoint)
    started = time.perf_counter()
    if calibration is not None and recipe.calibrates:
        calibration = laid_out(program, calibration)
    if method == "bf16":
        program = bf16(program, options)
    elif method == "dynamic":
        program = dynamic(program, rules, options)
    elif recipe.trains:
        assert calibration is not None
        assert train is not None
        program = qat(program, rules, calibration, options, train, validation, path)
    elif method == "static-best":
        assert calibration is not None
        program = static_best(program, rules, calibration, options, path)
    elif recipe.calibrates:
        assert calibration is not None
        program = CALIBRATED[method](program, rules, calibration, options)
    program = within_limits(program)
    return replace(program, quantize_seconds=time.perf_counter() - started)


def _checked(program: Program, name: str, calibration: Loader | None, train: Loader | None) -> Method:
    recipe = find(name)
    if program.method != "fp32":
        raise InputError(f"the Program is {program.method} already; quantize the float one")
    for part, loader, needed in (
        ("calibration", calibration, recipe.calibrates),
        ("train", train, recipe.trains),
    ):
        if needed and loader is None:
            raise InputError(f"method '{name}' needs {part} data; give it")
        if needed:
            check(loader, f"the {part} data")
    return recipe
