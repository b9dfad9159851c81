"""ExecuTorch: int8 against float32, and against ExecuTorch's own XNNPACK quantizer, time and accuracy.

    python benchmarks/pte.py times
    python benchmarks/pte.py accuracy FOLDER

Needs ``executorch`` and ``torchao``. Times are of one thread and batch 1, interleaved, on torchvision
networks whose batch norms have seen noise; FOLDER holds trained networks and images (see trained.py).
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import trained
import typer
from torch import Tensor, nn

import zeropoint as zp
import zeropoint.models
from zeropoint.engines.executorch.run import load
from zeropoint.errors import InputError
from zeropoint.measure.fidelity import FidelityMeter
from zeropoint.measure.latency import interleave, paired_ratio, summarize

NETWORKS = ("resnet18", "mobilenet_v2")
BATCH, SECONDS = 50, 40.0
app = typer.Typer()


def own_flow(model: nn.Module, example: Tensor, calibration: list[Tensor]) -> Callable[..., Any]:
    """The model as ExecuTorch's documentation quantizes one for XNNPACK: per channel, with its observers."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(torch.export.export(model, (example,)).module(), quantizer)
    size = len(example)
    for batch in torch.cat(calibration).split(size):
        if len(batch) == size:
            prepared(batch)
    exported = torch.export.export(convert_pt2e(prepared), (example,))
    edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    path = Path(tempfile.mkdtemp()) / "own.pte"
    path.write_bytes(edge.to_executorch().buffer)
    run = load(path, 1)
    return lambda images: torch.cat([run(part)[0] for part in images.split(size)])


def sqnr(model: nn.Module, run: Callable[..., Any], batches: list[Tensor]) -> float:
    meter = FidelityMeter()
    with torch.no_grad():
        for images in batches:
            meter.add([model(images)], [run(images)])
    return meter.result().sqnr_db


@app.command()
def times(network: list[str] | None = None, seconds: float = SECONDS) -> None:
    """Time of a call, and SQNR to float32 on noise."""
    print("network | float32 ms | int8 ms | own flow ms | int8 / float32 | int8 / own flow | SQNR | own flow")
    for name in network or NETWORKS:
        torch.manual_seed(0)
        model = zeropoint.models.resolve(f"torchvision/{name}", "none")
        with torch.no_grad():
            for _ in range(3):
                model.train()(torch.randn(8, 3, 224, 224))
        model.eval()
        calibration, test = (list(torch.randn(16, 3, 224, 224).split(1)) for _ in range(2))
        program = zp.capture(model, test[0])
        quantized = zp.quantize(program, calibration=calibration, target="executorch")
        runs: dict[str, Callable[..., Any]] = {
            "float32": zp.compile(program, "executorch", threads=1),
            "int8": zp.compile(quantized, "executorch", threads=1),
            "own": own_flow(model, test[0], calibration),
        }
        taken = interleave({key: partial(run, test[0]) for key, run in runs.items()}, seconds=seconds)
        cells = [f"{summarize(one).p50:.2f}" for one in taken.values()]
        ratios = [paired_ratio(taken["int8"], taken[other]) for other in ("float32", "own")]
        cells += [f"{one.median:.3f} ({one.low:.3f} to {one.high:.3f})" for one in ratios]
        cells += [f"{sqnr(model, runs[key], test):.1f}" for key in ("int8", "own")]
        print(" | ".join([name, *cells]), flush=True)


@app.command()
def accuracy(
    folder: Annotated[Path, typer.Argument(help="with models.py and its data")],
    network: list[str] | None = None,
    images: int = 2000,
) -> None:
    """Top-1 and agreement with float32 in percent, and SQNR in dB, on the test split."""
    source = trained.read(str(folder.resolve()))
    for name in network or trained.SIZES:
        model = getattr(source, name)().eval()
        calibration = trained.calibration(source, name)
        test = trained.scored(source, name, BATCH)[: images // BATCH]
        program = zp.capture(model, calibration[0][:2])
        quantized = zp.quantize(program, calibration=calibration, target="executorch")
        runs: dict[str, Callable[..., Any]] = {
            "float32": model,
            "simulated": quantized,
            "executorch": zp.compile(quantized, "executorch", threads=1, batch_size=BATCH),
            "own flow": own_flow(model, test[0][0][:1], calibration),
        }
        for key, run in runs.items():
            meter, right, count = FidelityMeter(), 0, 0
            with torch.no_grad():
                for inputs, labels in test:
                    try:
                        outputs = run(inputs)
                    except InputError as error:
                        print(f"{name} | {key} | {error}", flush=True)
                        break
                    meter.add([model(inputs)], [outputs])
                    right, count = right + int((outputs.argmax(1) == labels).sum()), count + len(labels)
            if not count:
                continue
            found = meter.result()
            numbers = f"{100 * right / count:.2f} | {100 * (found.agreement or 0):.2f} | {found.sqnr_db:.1f}"
            print(f"{name} | {key} | {numbers}", flush=True)


if __name__ == "__main__":
    app()
