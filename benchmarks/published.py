"""Five comparisons that others published, measured here: fills the tables of docs/published.

    python benchmarks/published.py DATA                    all pages; DATA is a folder as for trained.py
    python benchmarks/published.py DATA --page sizes       only this one; repeatable
    python benchmarks/published.py DATA --imagefolder DIR  ResNet-18 and ResNet-50 on your own images
    python benchmarks/published.py --quick --out FOLDER    tiny networks and one round: whether it runs

The ResNet-18 of the page ``resnet18`` is trained first (``make published`` does both):

    zeropoint train benchmarks/resnet18.py:make_model --data benchmarks/resnet18.py:make_loaders ...

Writes published.json, and into the pages between ``<!-- table NAME -->`` and ``<!-- end -->``. QAT keeps its
state in ``--work``: an interrupted command goes on if it is repeated.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import networks
import published_tables as tables
import report
import resnet18 as small
import torch
import trained
import typer
from torch import nn

import zeropoint as zp
from zeropoint import data, models
from zeropoint.targets import machine

PAGES = report.DOCS / "published"
WORK = Path(__file__).parent.parent / "runs" / "published"
WEIGHTS = WORK / "resnet18.safetensors"
# Networks of the page of sizes, and by how much they shrink in the comparison that others published.
SIZES = {
    "shufflenet_v2_x0_5": "2.38",
    "mobilenet_v3_large": "3.24",
    "efficientnet_v2_s": "3.45",
    "resnet18": "3.93",
    "resnet50": "3.85",
}
ENGINES = ("torch", "onnxruntime", "openvino")
# Chosen on the 512 images of resnet18.held_out, not on those that the page is judged on.
QAT = zp.TrainingOptions(epochs=2)
MARK = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    folder: Path | None
    images: str | None
    weights: Path
    work: Path
    quick: bool


def _digits(name: str, **more: Any) -> tables.Subject:
    loaders = data.resolve("digits")
    parts = (list(loaders.calibration), loaders.evaluation, loaders.train, loaders.validation)
    return tables.Subject(name, models.resolve(name), *parts, **more)


def _tiny() -> tables.Subject:
    """For ``--quick``: a network of three layers with random weights, on noise."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)).eval()
    batches = [(torch.randn(16, 3, 8, 8), torch.arange(16) % 10) for _ in range(2)]
    training = zp.TrainingOptions(epochs=1)
    return tables.Subject("tiny", network, [batches[0][0]], batches, batches, batches, training=training)


def _own(asked: Asked, name: str, **more: Any) -> tables.Subject:
    """A pretrained network of torchvision on a folder of images."""
    loaders = data.resolve(f"imagefolder:{asked.images}", batch_size=25)
    parts = (list(loaders.calibration), loaders.evaluation, loaders.train, loaders.validation)
    return tables.Subject(name, models.resolve(f"torchvision/{name}"), *parts, **more)


def _source(asked: Asked) -> Any:
    if asked.folder is None:
        raise typer.BadParameter("give the folder with models.py and its data, or --quick")
    return trained.read(str(asked.folder))


def _resnet20(asked: Asked) -> tables.Subject:
    source = _source(asked)
    parts = trained.calibration(source, "resnet20"), trained.scored(source, "resnet20")
    return tables.Subject("resnet20", source.resnet20(), *parts)


def _random(name: str, images: int) -> tables.Subject:
    calibration = list(networks.Calibration(name, images, 2))
    return tables.Subject(name, networks.load(name), calibration, calibration)


def _resnet18(asked: Asked) -> dict[str, tables.Table]:
    timing = tables.Timing(seconds=20.0)
    if asked.quick:
        subject = _tiny()
        timing = tables.Timing(0.0, 1, engines=("onnxruntime",))
    elif asked.images:
        subject = _own(asked, "resnet18", training=QAT)
    else:
        network = models.resolve(f"{small.__file__}:make_model", str(asked.weights))
        loaders = small.make_loaders()
        parts = (loaders["calibration"], loaders["evaluation"], loaders["train"], small.held_out())
        subject = tables.Subject("resnet18", network, *parts, training=QAT)
    return tables.resnet18(subject, timing, _image(subject, 1), asked.work / "qat")


def _resnet50(asked: Asked) -> dict[str, tables.Table]:
    timing = tables.Timing(25.0, 5, batch=25, engines=("onnxruntime", "openvino"))
    if asked.quick:
        judged = timed = _tiny()
        timing = tables.Timing(0.0, 1, batch=25, engines=("onnxruntime",))
    elif asked.images:
        judged = timed = _own(asked, "resnet50")
    else:
        judged, timed = _resnet20(asked), _random("resnet50", 8)
    return tables.resnet50(judged, timed, timing, _image(timed, timing.batch))


def _sizes(asked: Asked) -> dict[str, tables.Table]:
    engines = ("onnxruntime", "openvino")
    if asked.quick:
        return tables.sizes([_tiny()], ["–"], engines)
    return tables.sizes([_random(name, 8) for name in SIZES], list(SIZES.values()), engines)


def _choices(asked: Asked) -> dict[str, tables.Table]:
    if asked.quick:
        return tables.choices(_tiny(), _tiny(), ENGINES[1:])
    trainable = _digits("digits/mobilenet", training=zp.TrainingOptions(epochs=10))
    return tables.choices(_resnet20(asked), trainable, ENGINES)


def _image(subject: tables.Subject, batch: int) -> torch.Tensor:
    first = subject.calibration[0]
    one = first if isinstance(first, torch.Tensor) else first[0]
    return one[:1].expand(batch, *one.shape[1:]).contiguous()


MADE: dict[str, Callable[[Asked], dict[str, tables.Table]]] = {
    "resnet18": _resnet18,
    "resnet50": _resnet50,
    "sizes": _sizes,
    "choices": _choices,
}


def filled(page: str, made: dict[str, Any]) -> str:
    """The text of a page with its tables; raises KeyError for a table that was not measured."""
    return MARK.sub(lambda found: found[1] + report.table(*made[found[2]]) + found[3], page)


def main(
    folder: Annotated[Path | None, typer.Argument(help="with models.py and its data")] = None,
    page: Annotated[list[str] | None, typer.Option(help=f"only this one of {', '.join(MADE)}")] = None,
    imagefolder: Annotated[str | None, typer.Option(help="images in folders of their classes")] = None,
    weights: Annotated[Path, typer.Option(help="of the trained ResNet-18")] = WEIGHTS,
    work: Annotated[Path, typer.Option(help="folder of what takes long: the state of QAT")] = WORK,
    quick: Annotated[bool, typer.Option("--quick", help="tiny networks, one round")] = False,
    out: Annotated[Path | None, typer.Option(help="folder of the pages; default: docs/published")] = None,
) -> None:
    """Measure, and fill the pages."""
    asked = Asked(folder, imagefolder, weights, work, quick)
    record_file = (out or report.RESULTS) / "published.json"
    record = json.loads(record_file.read_text()) if record_file.exists() else {}
    for name in page or MADE:
        made = MADE[name](asked)
        record[name] = {"machine": machine.describe(), "tables": made}
        (out or PAGES).mkdir(parents=True, exist_ok=True)
        text = filled((PAGES / f"{name}.md").read_text(encoding="utf-8"), made)
        ((out or PAGES) / f"{name}.md").write_text(text, encoding="utf-8")
        record_file.write_text(json.dumps(record, indent=1) + "\n")
        print("\n".join(report.table(*one) for one in made.values()), flush=True)


if __name__ == "__main__":
    typer.run(main)
