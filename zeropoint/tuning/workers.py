"""Workers: pieces of work done here one after the other, or at once on the machines of a Ray cluster.

A worker is a node of the cluster that computes as this machine does: with the same processor, libraries,
model and data. It does one piece at a time, on all of its cores: nothing else of ours runs beside what is
timed.
"""

import contextlib
import dataclasses
import functools
import importlib
import io
import itertools
import logging
import pickle
import shutil
import sys
import tempfile
import warnings
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from zeropoint.errors import InputError, InputWarning, first_line
from zeropoint.files import atomic_write
from zeropoint.graph.program import Program, load
from zeropoint.models.userfile import MODULE
from zeropoint.targets import machine
from zeropoint.torch_private.graphs import call_flat

START = 120.0  # seconds in which a worker must answer for the first time: it imports torch, and reads data
CLOSE = 10.0  # that the end waits for folders to be removed
HINT = "give ray, for the cluster that this machine is in, or ray://HOST:10001"


@dataclass(frozen=True)
class Work:
    """A piece of work: ``call`` gives results of what all pieces share, a dataclass with a ``folder``.

    It reads and writes files in that folder alone. ``reads``: the names of those that must be there before.
    """

    name: str
    call: Callable[[Any], Iterable[Any]]
    reads: tuple[str, ...] = ()


# Takes a piece when a worker is free for it, and gives results as they come.
Does = Callable[[Iterable[Work]], Iterator[Any]]


def check_workers(workers: str | None) -> None:
    """Raises InputError for what names no workers, or if Ray is not installed."""
    if workers is None:
        return
    if not isinstance(workers, str) or not (workers == "ray" or workers.startswith("ray://")):
        raise InputError(f"workers is {workers!r}; {HINT}")
    _ray()


@contextlib.contextmanager
def opened(workers: str | None, shared: Any, of: Callable[[Any], str]) -> Iterator[Does]:
    """What does the work: this process, or the ``workers``, which end with the block.

    ``shared`` has a ``folder``, ``threads`` and ``say``; ``of`` gives a text of it that must be the same
    everywhere, such as a fingerprint of the data. Files that workers make are written here, too. A piece
    whose worker is lost is done by another, or here if none is left.

    Raises InputError if the cluster cannot be reached, if none of its nodes can work, or for what cannot be
    sent to them.
    """
    if workers is None:
        yield functools.partial(_here, shared)
        return
    # Ray prints there that a node is lost.
    with contextlib.redirect_stdout(sys.stderr), _connected(workers) as ray:
        packed = ray.put(_packed(dataclasses.replace(shared, say=_say_nothing)))
        cluster = _Cluster(ray, shared, packed, of, of(shared))
        try:
            cluster.join()
            if not cluster.nodes:
                why = "; ".join(cluster.refused.values()) or "it has none with a free core"
                raise InputError(f"no node of the Ray cluster can work: {why}")
            yield functools.partial(_spread, cluster)
        finally:
            cluster.close()


def _here(shared: Any, works: Iterable[Work]) -> Iterator[Any]:
    for work in works:
        yield from work.call(shared)


def _spread(cluster: "_Cluster", works: Iterable[Work]) -> Iterator[Any]:
    cluster.join()
    errors, say = cluster.ray.exceptions, cluster.shared.say
    waiting, again, busy = iter(works), list[Work](), dict[Any, tuple[_Node, Work]]()
    try:
        while True:
            for node in cluster.idle(node for node, _ in busy.values()):
                work = again.pop(0) if again else next(waiting, None)
                if work is None:
                    break
                say(f"{work.name}: on worker {node.address}")
                busy[cluster.start(node, work)] = node, work
            if not busy:
                break
            done = cluster.ray.wait(list(busy))[0][0]
            node, work = busy[done]
            try:
                results, files, told = cluster.ray.get(done)
            except errors.RayTaskError as error:
                raise error.cause from None
            except (errors.RayError, ConnectionError) as error:
                say(f"worker {node.address} is lost, and {work.name} is made again: {first_line(error)}")
                cluster.lose(node)
                again.append(work)
                continue
            finally:
                del busy[done]
            cluster.keep(node, files)
            for line in told:
                warnings.warn(InputWarning(line), stacklevel=2)
            yield from results
    finally:
        for node, _ in busy.values():  # after an error, or Ctrl-C
            cluster.lose(node)
    # Without a worker, what is left is done here.
    yield from _here(cluster.shared, itertools.chain(again, waiting))


@dataclass(frozen=True)
class _Node:
    """A node that works. ``holds``: the files that its folder has of the run's."""

    name: str
    address: str
    actor: Any
    holds: set[str] = field(default_factory=set)


@dataclass
class _Cluster:
    """The nodes that work, by Ray's names, and why others do not."""

    ray: Any
    shared: Any
    packed: Any
    of: Callable[[Any], str]
    wanted: str
    nodes: dict[str, _Node] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    folders: list[tuple[str, str]] = field(default_factory=list)

    def join(self) -> None:
        """Starts an actor on each node that has none, and leaves out those that do not compute as here."""
        starting = {}
        for one in self.ray.nodes():
            name, cores = one["NodeID"], one["Resources"].get("CPU", 0)
            if one["Alive"] and cores >= 1 and name not in self.nodes and name not in self.refused:
                # All cores of the node, so that other users of the cluster do not run beside what is timed.
                actor = self._on(name, _Actor, cores).remote(self.packed, sys.path)
                starting[actor.tell.remote(self.of)] = name, one["NodeManagerAddress"], actor
        answers = list(starting)
        ready = self.ray.wait(answers, num_returns=len(answers), timeout=START)[0] if answers else []
        for answer, (name, address, actor) in starting.items():
            reason = f"it is busy, or does not answer within {START:g} s"
            if answer in ready:
                try:
                    its, text, folder = self.ray.get(answer)
                    self.folders.append((name, folder))
                    reason = _unlike(its, machine.describe(), self.shared.threads)
                    reason = reason or ("" if text == self.wanted else "it has other data")
                except self.ray.exceptions.RayTaskError as error:
                    reason = first_line(error.cause)
                except self.ray.exceptions.RayError as error:
                    reason = _ends(error)  # as of an import that failed there
            if reason:
                self.ray.kill(actor)
                self.refused[name] = f"{address} is left out: {reason}"
                self.shared.say(f"worker {self.refused[name]}")
            else:
                self.nodes[name] = _Node(name, address, actor)

    def idle(self, busy: Iterable[_Node]) -> list[_Node]:
        """The nodes that are not ``busy``."""
        names = {node.name for node in busy}
        return [node for node in self.nodes.values() if node.name not in names]

    def start(self, node: _Node, work: Work) -> Any:
        """Starts a piece of work, with the files that the node lacks: Ray's reference to what it gives."""
        names = [name for name in work.reads if name not in node.holds]
        for name in names:
            if name not in self.files:
                self.files[name] = self.ray.put((self.shared.folder / name).read_bytes())
        node.holds.update(names)
        return node.actor.do.remote(work.call, names, *(self.files[name] for name in names))

    def keep(self, node: _Node, files: dict[str, bytes]) -> None:
        """Writes what a node made into the run folder."""
        for name, content in files.items():
            with atomic_write(self.shared.folder / name) as path:
                path.write_bytes(content)
        node.holds.update(files)

    def lose(self, node: _Node) -> None:
        """Ends the work of a node, which may be lost already; if it is alive, it may join again."""
        del self.nodes[node.name]
        with contextlib.suppress(Exception):
            self.ray.kill(node.actor)

    def close(self) -> None:
        """Ends all work, and removes what it left on the nodes."""
        for node in list(self.nodes.values()):
            self.lose(node)
        with contextlib.suppress(Exception):  # of a cluster that is lost
            alive = {one["NodeID"] for one in self.ray.nodes() if one["Alive"]}
            removed = [self._on(name, _remove).remote(at) for name, at in self.folders if name in alive]
            self.ray.wait(removed, num_returns=len(removed), timeout=CLOSE)

    def _on(self, name: str, what: Any, cores: float = 0) -> Any:
        """What runs on the node of that name."""
        place = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(name, soft=False)
        return self.ray.remote(what).options(num_cpus=cores, scheduling_strategy=place)


class _Actor:
    """What works on a node, in a folder of its own."""

    def __init__(self, packed: bytes, path: list[str]) -> None:
        sys.path += [folder for folder in path if folder not in sys.path]  # of modules of the user's own
        self.packed, self.folder = packed, Path(tempfile.mkdtemp(prefix="zeropoint-worker-"))
        self.shared: Any = None

    def tell(self, of: Callable[[Any], str]) -> tuple[dict[str, Any], str, str]:
        """The machine, what ``of`` gives here, and the folder."""
        self.shared = dataclasses.replace(pickle.loads(self.packed), folder=self.folder)
        self.packed = b""
        return machine.describe(), of(self.shared), str(self.folder)

    def do(
        self, call: Callable[[Any], Iterable[Any]], names: list[str], *contents: bytes
    ) -> tuple[list[Any], dict[str, bytes], list[str]]:
        """The results of a piece of work, the files that it made, and its warnings."""
        for name, content in zip(names, contents, strict=True):
            with atomic_write(self.folder / name) as path:
                path.write_bytes(content)
        before = self._times()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", InputWarning)
            results = list(call(self.shared))
        made = [name for name, time in self._times().items() if before.get(name) != time]
        told = [str(one.message) for one in caught if issubclass(one.category, InputWarning)]
        return results, {name: (self.folder / name).read_bytes() for name in made}, told

    def _times(self) -> dict[str, int]:
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder)): path.stat().st_mtime_ns for path in files}


def _unlike(its: dict[str, Any], ours: dict[str, Any], threads: int) -> str:
    """How a worker's machine differs from this one in what measurements depend on; empty if it does not."""
    for key, what in (("processor", "the processor"), ("instruction_sets", "the instruction sets")):
        if its[key] != ours[key]:
            wanted = ours[key] if isinstance(ours[key], str) else " ".join(ours[key])
            return f"it has not {what} of this machine, {wanted}"
    for name, version in ours["versions"].items():
        if its["versions"].get(name) != version:
            found = its["versions"].get(name)
            return f"it has {f'{name} {found}' if found else f'no {name}'}, and not {version}"
    if its["cores"] < threads:
        return f"it has {its['cores']} cores, and latency is measured with {threads} threads"
    return ""


def _ends(error: Exception) -> str:
    """The first line of an error, and the last one, where Ray puts the cause."""
    last = str(error).strip().splitlines()[-1:]
    return " ".join(dict.fromkeys([first_line(error), *map(str.strip, last)]))


def _remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _say_nothing(line: str) -> None:
    pass


def _ray() -> Any:
    """The package; ``Any``, so that types are checked alike with and without it."""
    try:
        importlib.import_module("ray.util.scheduling_strategies")
        return importlib.import_module("ray")
    except ImportError as error:
        raise InputError("workers need Ray; run: pip install 'zeropoint[ray]'") from error


@contextlib.contextmanager
def _connected(workers: str) -> Iterator[Any]:
    """Ray, connected to the cluster; a connection that is there already is used, and stays."""
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    try:
        address = "auto" if workers == "ray" else workers  # which RAY_ADDRESS may tell
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of many kinds, by what is wrong
        raise InputError(f"cannot reach a Ray cluster by {workers}: {_ends(error)}; {HINT}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _packed(shared: Any) -> bytes:
    """What all pieces of work share, for a worker: functions of the user's own files with their code."""
    cloudpickle = _ray().cloudpickle
    saved: dict[int, bytes] = {}

    def reduced(program: Program) -> tuple[Any, ...]:
        module = id(program.module)  # which several Programs may have
        saved[module] = saved.get(module) or _bytes(program)
        names = [node.target for node in program.module.graph.find_nodes(op="placeholder")]
        return _program, (saved[module], program.example_inputs, names)

    table = ChainMap({Program: reduced}, cloudpickle.CloudPickler.dispatch_table)
    pickler = type("Pickler", (cloudpickle.CloudPickler,), {"dispatch_table": table})

    def dumped(value: Any) -> bytes:
        pickler(file := io.BytesIO()).dump(value)
        return file.getvalue()

    def culprit(value: Any, name: str) -> str:
        for part in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
            try:
                dumped(getattr(value, part.name))
            except Exception:
                return culprit(getattr(value, part.name), part.name)
        return name

    own = [module for name, module in sys.modules.items() if name.startswith(MODULE)]
    for module in own:
        cloudpickle.register_pickle_by_value(module)
    try:
        return dumped(shared)
    except Exception as error:  # of the user's classes, of any kind
        reason = f"{culprit(shared, 'the search')} cannot be sent to workers: {first_line(error)}"
        raise InputError(f"{reason}; give what pickle takes, or leave workers out") from error
    finally:
        for module in own:
            cloudpickle.unregister_pickle_by_value(module)


def _bytes(program: Program) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        program.save(Path(folder) / "program.pt2")
        return (Path(folder) / "program.pt2").read_bytes()


def _program(saved: bytes, example_inputs: tuple[Tensor, ...], names: list[str]) -> Program:
    """The Program as it was, with the names of inputs that a saved one may change."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.pt2"
        path.write_bytes(saved)
        program = dataclasses.replace(load(path), example_inputs=example_inputs)
    for node, name in zip(program.module.graph.find_nodes(op="placeholder"), names, strict=True):
        node.target = name
    call_flat(program.module.graph)
    program.module.recompile()
    return program
