"""Record: the numbers of a training as they come, to JSON lines, TensorBoard and MLflow."""

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from zeropoint.files import make_folder

FILE = "metrics.jsonl"


class Record(Protocol):
    """Takes the numbers of a step."""

    def __call__(self, step: int, numbers: dict[str, float]) -> None:
        """Notes them."""


def nowhere(step: int, numbers: dict[str, float]) -> None:
    """The record of a training that nobody keeps."""


@contextmanager
def recording(folder: Path | None, after: int) -> Iterator[Record]:
    """A Record in ``folder``, which keeps of an earlier one what came up to step ``after``."""
    if folder is None:
        yield nowhere
        return
    path = make_folder(folder) / FILE
    earlier = [line for line in read(path) if line["step"] <= after] if after and path.exists() else []
    path.write_text("".join(json.dumps(line) + "\n" for line in earlier), encoding="utf-8")
    with ExitStack() as closing, open(path, "a", encoding="utf-8", buffering=1) as file:
        boards = [
            board for board in (_tensorboard(folder, after, closing), _mlflow(folder, closing)) if board
        ]

        def record(step: int, numbers: dict[str, float]) -> None:
            file.write(json.dumps({"step": step, **numbers}) + "\n")
            for board in boards:
                board(step, numbers)

        yield record


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a record; one that was cut off is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
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
        if importlib.util.find_spec("alembic") is None:  # mlflow-skinny, which has servers to write to alone
            return None
        mlflow.set_tracking_uri(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
    if mlflow.active_run() is None:
        mlflow.set_experiment("zeropoint")
        mlflow.start_run(run_name=folder.name)
        closing.callback(mlflow.end_run)
    return lambda step, numbers: mlflow.log_metrics(numbers, step=step)
