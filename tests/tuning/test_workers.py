"""Work on a Ray cluster of two local nodes, one of which is lost, and what keeps workers from joining."""

import contextlib
import dataclasses
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from networks import images, options, residual
from torch import nn

from zeropoint.comparison.compare import compare
from zeropoint.data import Loaders
from zeropoint.errors import InputError
from zeropoint.graph.capture import capture
from zeropoint.tuning import candidates, workers
from zeropoint.tuning.budget import Budget
from zeropoint.tuning.frontier import load
from zeropoint.tuning.search import tune


@dataclasses.dataclass
class Batches:
    """Calibration batches; a worker that reads them while there is a file ``armed`` loses its node, once."""

    armed: Path
    here: int = dataclasses.field(default_factory=os.getpid)

    def __iter__(self) -> Iterator[torch.Tensor]:
        if os.getpid() != self.here:
            candidates.SECONDS = 0.0  # as few calls are timed as here
            with contextlib.suppress(FileNotFoundError):
                self.armed.unlink()  # of several workers one succeeds
                os.kill(os.getppid(), signal.SIGKILL)  # the process of Ray that the node is
                time.sleep(60)
        yield from (images(8), images(8, 1))

    def __length_hint__(self) -> int:
        return 2


def loaders(armed: Path) -> Loaders:
    labelled = [(images(8, seed), torch.arange(8) % 5) for seed in (5, 6)]
    return Loaders("mine", calibration=Batches(armed), evaluation=labelled)


def search(folder: Path, **given):
    arguments = {"engines": ["onnxruntime"], "formats": ["W4A8", "W8A32"]}
    budget = Budget(max_size=5000)  # which latencies have no say in
    return tune(residual(), loaders(folder / "armed"), budget, out=folder / "run", **arguments, **given)


@pytest.fixture(scope="module")
def cluster():
    """A local cluster of two nodes with one core each, which is that of this machine."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # tests share their core with others
        head = {"num_cpus": 0, "include_dashboard": False}
        head["_system_config"] = {"health_check_period_ms": 500}  # so that a lost node is soon missed
        made = Cluster(initialize_head=True, head_node_args=head)
        patch.setenv("RAY_ADDRESS", made.address)
        try:
            made.add_node(num_cpus=1)
            made.add_node(num_cpus=1)
            yield made
        finally:
            made.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(candidates, "SECONDS", 0.0)


def numbers(point):
    return {**dataclasses.asdict(point), "seconds": 0, "search_ms": 0, "latency_ms": 0, "predicted_ms": 0}


@pytest.mark.slow
def test_rows_are_those_of_one_process(tmp_path, cluster):
    given = {"methods": ["fp32", "static"], "bits": ["W8A8", "W4A8"], "options": options()}
    given |= {"engines": ["onnxruntime"]}
    said = []
    data = loaders(tmp_path / "armed")
    one = compare(residual(), data, out=tmp_path / "one", **given)
    several = compare(residual(), data, out=tmp_path / "several", workers="ray", say=said.append, **given)
    assert sum("on worker" in line for line in said) == 3
    for a, b in zip(one.rows, several.rows, strict=True):
        assert (a.name, a.sqnr_db, a.top1, a.size_bytes) == (b.name, b.sqnr_db, b.top1, b.size_bytes)
        assert b.error is None
        assert b.latency_ms.p50 > 0
        assert (tmp_path / "several" / b.artefact).stat().st_size == b.size_bytes

    def files(folder):
        return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())

    assert files(tmp_path / "several") == files(tmp_path / "one")


@pytest.mark.slow
def test_a_search_that_loses_a_node_and_is_stopped_ends_as_in_one_process(tmp_path, cluster):
    whole = search(tmp_path)
    folder, said = tmp_path / "cluster", []
    folder.mkdir()

    def arm(line):
        said.append(line)
        if line.startswith("model 4"):  # when both workers have a model to make
            (folder / "armed").touch()
        if line.startswith("model 5"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="4 models are saved"):
        search(folder, workers="ray", say=arm)
    assert [line for line in said if "is lost" in line and "is made again" in line]
    assert not (folder / "armed").exists()
    saved = load(folder / "run").points
    again = search(folder)
    assert [point.seconds for point in again.points[:4]] == [point.seconds for point in saved]
    assert list(map(numbers, again.points)) == list(map(numbers, whole.points))
    assert again.chosen == whole.chosen
    for point in again.points:
        assert (folder / "run" / point.artefact).exists()
        assert point.error is None


HERE = {"processor": "P", "instruction_sets": ["avx2"], "cores": 4, "versions": {"torch": "2", "numpy": "1"}}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, ""),
        ({"cores": 8, "memory_bytes": 1}, ""),
        ({"processor": "Q"}, "it has not the processor of this machine, P"),
        ({"instruction_sets": []}, "it has not the instruction sets of this machine, avx2"),
        ({"versions": {"torch": "2"}}, "it has no numpy, and not 1"),
        ({"versions": {"torch": "3", "numpy": "1"}}, "it has torch 3, and not 2"),
        ({"cores": 1}, "it has 1 cores, and latency is measured with 2 threads"),
    ],
)
def test_a_machine_that_computes_otherwise_is_no_worker(changed, reason):
    assert workers._unlike({**HERE, **changed}, HERE, threads=2) == reason


@pytest.mark.parametrize("name", ["dask", "", 2, "ray:/x"])
def test_workers_of_other_names_are_refused_before_anything_is_done(tmp_path, name):
    with pytest.raises(InputError, match=r"^workers is .*; give ray, .* or ray://HOST:10001$"):
        search(tmp_path, workers=name)
    assert not (tmp_path / "run").exists()


def test_without_ray_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"^workers need Ray; run: pip install 'zeropoint\[ray\]'$"):
        search(tmp_path, workers="ray")


def test_a_cluster_that_is_not_there_is_told_in_a_line(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed")

    def refuse(**_):
        raise ConnectionError("no running Ray\nsome more")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(InputError, match=r"^cannot reach a Ray cluster by ray: no running Ray some more; "):
        search(tmp_path, workers="ray")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_sent_is_named(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")

    @dataclasses.dataclass
    class Shared:
        say: object
        data: Loaders

    data = dataclasses.replace(loaders(tmp_path), evaluation=[threading.Lock()])
    reason = "evaluation cannot be sent to workers: cannot pickle '_thread.lock' object; "
    with pytest.raises(InputError, match=f"^{reason}"):
        workers._packed(Shared(print, data))


def test_a_program_arrives_as_it_was_sent():
    pytest.importorskip("ray", reason="Ray is not installed")
    program = capture(nn.Sequential(nn.Conv2d(3, 4, 3)), images(2))  # whose input a saved one renames
    one, other = pickle.loads(workers._packed((program, dataclasses.replace(program, origin="other"))))
    assert one.origin == program.origin
    assert all(map(torch.equal, one.example_inputs, program.example_inputs))
    assert torch.equal(one(images(4)), program(images(4)))
    assert other.module.code == one.module.code == program.module.code


def test_here_pieces_are_done_one_after_the_other(tmp_path):
    done = []

    def asked():
        for name in "ab":
            done.append(f"ask {name}")
            yield workers.Work(name, lambda shared, name=name: [done.append(name), shared])

    with workers.opened(None, "shared", str) as does:
        assert list(does(asked())) == [None, "shared"] * 2
    assert done == ["ask a", "a", "ask b", "b"]
