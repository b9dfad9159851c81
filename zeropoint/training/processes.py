"""Processes: one or many, on CPUs or GPUs, and which rows of every batch each of them trains on.

``torchrun`` starts several; the library that joins them is Lightning Fabric.
"""

import atexit
import dataclasses
import operator
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from zeropoint import progress
from zeropoint.data.batches import Around, FlatBatch, Loader, innermost, split
from zeropoint.errors import InputError
from zeropoint.torch_private.trees import tree_map_only

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}


def is_first() -> bool:
    """Whether this process prints and writes files: the only one, or the first of several."""
    return int(os.environ.get("RANK", "0")) == 0


def join(precision: str = "auto") -> "Fabric":
    """The processes that ``torchrun`` started, or only this one; on GPUs if there are any.

    Raises InputError if Lightning Fabric is not installed.
    """
    try:
        from lightning_fabric import Fabric
    except ModuleNotFoundError as error:
        raise InputError("Lightning Fabric is not installed; run: pip install 'zeropoint[train]'") from error

    has_gpu = torch.cuda.is_available()
    count = int(os.environ.get("WORLD_SIZE", "1"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(count)))
    if precision == "auto":
        precision = "bf16" if has_gpu else "32"
    fabric = Fabric(
        accelerator="cuda" if has_gpu else "cpu",
        devices=here,
        num_nodes=max(count // here, 1),
        strategy="ddp" if count > 1 else "auto",
        precision=_PRECISIONS[precision],  # type: ignore[arg-type]
    )
    fabric.launch()
    if not is_first():
        progress.be_quiet(True)
    if count > 1:
        atexit.register(_part)
    return fabric


def _part() -> None:
    """Stops the threads that exchange tensors while Python still runs.

    A thread that frees its last tensor later needs the interpreter, which no longer exists: sometimes the
    whole process then ended with SIGABRT, after all the work was done.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _own(rows: Any, process: int, processes: int) -> Any:
    """The rows of a batch for one process; the last row if there are too few for all."""
    return rows[process::processes] or rows[-1:]


class _Share:
    """Of every batch's indices those of one process."""

    def __init__(self, indices: Any, process: int, processes: int) -> None:
        self.indices, self.process, self.processes = indices, process, processes

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.indices:
            yield _own(batch, self.process, self.processes)

    def __len__(self) -> int:
        return len(self.indices)


def share(loader: Loader, process: int, processes: int) -> Loader:
    """A loader of this process's rows of every batch of ``loader``: all if there is one process.

    Together the processes have the batches of one. A DataLoader then reads those rows alone.
    """
    if processes == 1:
        return loader
    given = innermost(loader)
    if isinstance(given, DataLoader):
        if isinstance(given.sampler, DistributedSampler):
            raise InputError("zeropoint gives each process its rows; leave the DistributedSampler out")
        if not isinstance(given.dataset, IterableDataset) and given.batch_sampler is not None:
            shared = DataLoader(
                given.dataset,
                batch_sampler=_Share(given.batch_sampler, process, processes),
                num_workers=given.num_workers,
                collate_fn=given.collate_fn,
                pin_memory=given.pin_memory,
                worker_init_fn=given.worker_init_fn,
                generator=given.generator,
                persistent_workers=given.persistent_workers,
            )
            return _with_innermost(loader, shared)
    return _Sliced(loader, process, processes)


def _with_innermost(loader: Loader, inner: Loader) -> Loader:
    """A loader with another one in the place of that which the user gave."""
    if not isinstance(loader, Around):
        return inner
    return dataclasses.replace(loader, loader=_with_innermost(loader.loader, inner))


class _Sliced:
    """Rows of batches that are read whole."""

    def __init__(self, loader: Loader, process: int, processes: int) -> None:
        self.loader, self.process, self.processes = loader, process, processes

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            inputs, labels = split(batch)
            index = torch.tensor(_own(range(len(inputs[0])), self.process, self.processes))
            yield FlatBatch(
                tuple(tensor[index] for tensor in inputs), None if labels is None else labels[index]
            )

    def __length_hint__(self) -> int:
        return operator.length_hint(self.loader)


def move(module: nn.Module, device: torch.device) -> None:
    """Moves a module, and the device that operators of its graph name, to ``device``."""
    module.to(device)
    if isinstance(module, GraphModule):
        for node in module.graph.nodes:
            node.args, node.kwargs = tree_map_only(torch.device, lambda _: device, (node.args, node.kwargs))
        module.recompile()


def total(fabric: "Fabric", *values: float) -> list[float]:
    """Each value's sum over all processes."""
    if fabric.world_size == 1:
        return list(values)
    own = torch.tensor(values, dtype=torch.float64, device=fabric.device)
    summed = fabric.all_reduce(own, reduce_op="sum")
    assert isinstance(summed, Tensor)
    return summed.tolist()
