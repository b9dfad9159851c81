"""Record: the numbers of a training, written to JSON lines, TensorBoard and MLflow as they come."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from zeropoint.files import make_folder

FILE = "metrics.jsonl"

Record = Callable[[int, dict[str, float]], None]
"""Takes a step's number and its numbers by name."""


@contextmanager
def recording(folder: Path | None, after: int) -> Iterator[Record]:
    """A Record in ``folder``, which keeps the lines up to step ``after`` of an earlier one.

    Without a folder it writes nothing.
    """
    if folder is None:
        yield lambda step, numbers: None
        return
    path = make_folder(folder) / FILE
    earlier = [line for line in read(path) if line["step"] <= after] if after and path.exists() else []
    with ExitStack() as closing, open(path, "wb", buffering=0) as file:
        file.write(msgspec.json.Encoder().encode_lines(earlier))
        boards = _tensorboard(folder, after, closing), _mlflow(folder, closing)

        def record(step: int, numbers: dict[str, float]) -> None:
            file.write(msgspec.json.encode({"step": step, **numbers}) + b"\n")
            for board in boards:
                if board is not None:
                    board(step, numbers)

        yield record


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a record, without one that was cut off."""
    lines = []
    for line in path.read_bytes().splitlines():
        try:
            lines.append(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.DecodeError:
            continue
    return lines


def _tensorboard(folder: Path, after: int, closing: ExitStack) -> Record | None:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=after + 1)
    closing.callback(writer.close)

    def record(step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return record


def _mlflow(folder: Path, closing: ExitStack) -> Record | None:
    if importlib.util.find_spec("mlflow") is None:
        return None
    import mlflow

    if "MLFLOW_TRACKING_URI" not in os.environ:
        if importlib.util.find_spec("alembic") is None:  # mlflow-skinny, which can only write to a server
            return None
        mlflow.set_tracking_uri(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
    if mlflow.active_run() is None:
        mlflow.set_experiment("zeropoint")
        mlflow.start_run(run_name=folder.name)
        closing.callback(mlflow.end_run)
    return lambda step, numbers: mlflow.log_metrics(numbers, step=step)
