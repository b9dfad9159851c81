"""Checkpoints: whose state is used, what an interrupt leaves and says, and that loading runs no code."""

import pickle
from pathlib import Path

import pytest
import torch
from networks import images, residual

from zeropoint.errors import InputError
from zeropoint.training import checkpoint as checkpoints
from zeropoint.training.checkpoint import Checkpoint, beside, checkpoint

STATE = {"step": 3, "best": 0.5, "weights": {"a": torch.arange(3.0)}, "none": None}


def test_what_was_saved_last_comes_back(tmp_path: Path):
    kept = Checkpoint(tmp_path / "new" / "m.checkpoint", "key")
    assert kept.load() is None
    kept.save({"step": 2}, "step 2")
    kept.save(STATE, "step 3")
    state = kept.load()
    assert torch.equal(state["weights"].pop("a"), torch.arange(3.0))
    assert state == {"step": 3, "best": 0.5, "weights": {}, "none": None}
    assert [path.name for path in kept.path.parent.iterdir()] == ["m.checkpoint"]


def test_without_a_path_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    kept = checkpoint(None, residual())
    kept.save(STATE, "step 3")
    assert kept.load() is None
    assert not list(tmp_path.iterdir())


def test_another_pass_does_not_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, program = tmp_path / "m.checkpoint", residual()
    checkpoint(path, program, images(), 8).save(STATE, "step 3")
    assert checkpoint(path, residual(), images(), 8).load()
    changed = residual()
    with torch.no_grad():
        next(iter(changed.module.parameters())).view(-1)[0] += 1e-6
    for other in ((changed, images(), 8), (program, images(seed=1), 8), (program, images(), 4)):
        assert checkpoint(path, *other).load() is None
    monkeypatch.setattr(checkpoints, "versions", lambda: {"torch": "99"})
    assert checkpoint(path, program, images(), 8).load() is None


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


def test_loading_runs_no_code(tmp_path: Path):
    kept = Checkpoint(tmp_path / "m.checkpoint", "key")
    evil = {"key": "key", "reached": "step 3", "state": Evil(tmp_path / "ran")}
    torch.save(evil, kept.path)
    assert kept.load() is None
    kept.path.write_bytes(pickle.dumps(evil))
    assert kept.load() is None
    assert not (tmp_path / "ran").exists()


def test_a_damaged_file_is_not_used(tmp_path: Path):
    kept = Checkpoint(tmp_path / "m.checkpoint", "key")
    kept.save(STATE, "step 3")
    kept.path.write_bytes(kept.path.read_bytes()[:-100])
    assert kept.load() is None


def test_an_interrupt_says_what_is_kept(tmp_path: Path):
    path = tmp_path / "m.checkpoint"
    kept = Checkpoint(path, "key")
    with pytest.raises(KeyboardInterrupt) as plain, kept.tells("distilling"):
        raise KeyboardInterrupt
    assert not str(plain.value)
    kept.save(STATE, "step 3 of 9")
    with pytest.raises(KeyboardInterrupt) as told, kept.tells("distilling"):
        raise KeyboardInterrupt
    assert str(told.value) == f"distilling is saved at step 3 of 9 in {path}"


def test_an_interrupt_while_saving_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    kept = Checkpoint(tmp_path / "m.checkpoint", "key")
    kept.save(STATE, "step 3")
    monkeypatch.setattr(Path, "write_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        kept.save({"step": 4}, "step 4")
    assert kept.load()["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["m.checkpoint"]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path):
    with pytest.raises(InputError, match="it is a folder"):
        Checkpoint(tmp_path, "key").save(STATE, "step 3")


def test_beside_the_program():
    assert beside("runs/static-W4A8.pt2") == Path("runs/static-W4A8.pt2.checkpoint")
