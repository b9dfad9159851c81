"""Artefacts on an emulated Arm processor. ``bash tests/arm/setup.sh`` makes what they need; see there.

The torch engine's artefact is left out: it is machine code, and the compiler here makes none for Arm.
"""

import functools
import shutil
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import zeropoint as zp
from zeropoint import models
from zeropoint.data.digits import digits
from zeropoint.errors import InputWarning
from zeropoint.measure.fidelity import Fidelity, FidelityMeter
from zeropoint.measure.parity import judge

FOLDER = Path(__file__).parents[2] / "build" / "arm"
PROCESSOR = "neoverse-n1"  # as qemu calls it; it has asimddp, as those of the kind "arm"
SECONDS = 300  # for one run at most; it takes 10 to 25 on one core
CLOSE_DB = 45.0  # of outputs to the simulation's: ONNX Runtime reaches 67, OpenVINO on x86 50

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed"),
    pytest.mark.skipif(
        not (FOLDER / "ready").is_file(), reason="no Arm Python; make it with: bash tests/arm/setup.sh"
    ),
]


@dataclass(frozen=True)
class Outputs:
    """Of the same images: by float32, by the quantized Program, and by its artefact on Arm."""

    float32: Tensor
    simulation: Tensor
    arm: Tensor
    labels: Tensor

    def top1(self, outputs: Tensor) -> float:
        return (outputs.argmax(1) == self.labels).double().mean().item()


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory):
    """``outputs(engine, processor)``: those of a network quantized for both, made once."""
    data = digits(batch_size=32, seed=0)
    images, labels = data.evaluation[0]
    program = zp.capture(models.resolve("digits/resnet"), images[:1])

    @functools.cache
    def made_for(engine: str, processor: str) -> Outputs:
        options = zp.Options(processor=processor)
        quantized = zp.quantize(program, calibration=data.calibration, target=engine, options=options)
        folder = tmp_path_factory.mktemp(engine)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)  # that this processor is another
            artefact = zp.compile(quantized, engine, path=folder / "model").artefact
        return Outputs(program(images), quantized(images), on_arm(artefact, images), labels)

    return made_for


def on_arm(artefact: Path, images: Tensor) -> Tensor:
    """The artefact's output there; raises CalledProcessError where it crashes."""
    source, destination = artefact.with_name("inputs.npz"), artefact.with_name("outputs.npz")
    np.savez(source, images.numpy())
    sysroot, script = FOLDER / "sysroot", Path(__file__).with_name("run_artefact.py")
    emulator = ["qemu-aarch64", "-cpu", PROCESSOR, "-L", sysroot, sysroot / "usr" / "bin" / "python3"]
    environment = {"PYTHONPATH": str(FOLDER / "site")}  # nothing of this machine's
    command = [*emulator, "-X", "faulthandler", script, artefact, source, destination]
    subprocess.run(command, env=environment, timeout=SECONDS, check=True)
    with np.load(destination) as arrays:
        return torch.from_numpy(arrays["arr_0"])


@pytest.mark.parametrize("processor", ["arm", "any"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_artefacts_compute_what_the_simulation_does(engine: str, processor: str, outputs):
    of = outputs(engine, processor)
    simulation, arm = fidelity(of.float32, of.simulation), fidelity(of.float32, of.arm)
    between = fidelity(of.simulation, of.arm)
    print(
        f"{engine} {processor}: to float {arm.sqnr_db:.2f} dB, the simulation {simulation.sqnr_db:.2f} dB;"
        f" to the simulation {between.sqnr_db:.2f} dB"
    )
    assert judge(arm, simulation, between).ok
    assert between.sqnr_db > CLOSE_DB


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_what_is_made_for_any_processor_is_as_accurate_there(engine: str, outputs):
    arm, any = outputs(engine, "arm"), outputs(engine, "any")
    assert any.top1(any.arm) == any.top1(any.simulation) == arm.top1(arm.arm)


def fidelity(reference: Tensor, outputs: Tensor) -> Fidelity:
    meter = FidelityMeter()
    meter.add([reference], [outputs])
    return meter.result()
