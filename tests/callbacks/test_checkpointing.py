"""Which checkpoints are written and kept, and writing them in the background: the same files, one at a time."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.build import build_engine, build_parts
from workbench.callbacks.checkpointing import Checkpointing
from workbench.distributed.processes import Parallel
from workbench.engine import Callback, Engine, Logs
from workbench.recipe.schema import RecipeError, parse_recipe
from workbench.runs.train import train
from workbench.training import checkpoint, checkpoint_files
from workbench.training.metrics import Metrics, read


def tree(**more: Any) -> dict[str, Any]:
    small = {"name": "x", "data": {"name": "synthetic", "task": "xor", "samples": 96}, "objective": "clip"}
    small |= {"model": {"dim": 4, "encoders": dict.fromkeys("abc", "mlp")}, "parallel": {"workers": 0}}
    return small | {"train": {"for": "12 steps", "batch": 24}, "log": {"tensorboard": False}} | more


def built(folder: Path, **settings: Any) -> Engine:
    engine = build_engine(build_parts(parse_recipe(tree())), Parallel(), Metrics(None))
    engine.callbacks.append(Checkpointing(folder, **settings))
    return engine


def steps(folder: Path) -> list[int]:
    return [int(path.name[5:]) for path in checkpoint_files.saved(folder)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"every": 2, "keep": 2}, [10, 12]),
        ({"every": 2, "keep": 3, "keep_every": 4}, [4, 8, 10, 12]),
        ({"every": 5, "keep": 2, "keep_every": 3}, [3, 6, 9, 10, 12]),  # steps of keep_every are saved, too
        ({"every": 100, "keep": 2}, [12]),
    ],
)
@pytest.mark.parametrize("background", [False, True])
def test_the_newest_and_those_of_every_so_many_steps_are_kept(
    tmp_path: Path, settings: dict[str, int], kept: list[int], background: bool
) -> None:
    built(tmp_path, **settings, background=background).fit()
    assert steps(tmp_path) == kept
    assert checkpoint_files.newest(tmp_path) == (tmp_path / "step-12", [])


def test_metrics_are_on_the_disk_before_the_checkpoint_of_their_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU they wait in memory; a run that is killed behind its save would resume with a gap in them."""
    engine = built(tmp_path, every=3, keep=9)
    engine.metrics = Metrics(tmp_path / "metrics.jsonl", on_device=True)
    engine.metrics.open(0)
    found, write = [], checkpoint.write

    def look_and_write(folder: Path, taken: checkpoint.Snapshot, *more: Any) -> Path:
        found.append((taken.state.step, [record["step"] for record in read(tmp_path / "metrics.jsonl")]))
        return write(folder, taken, *more)

    monkeypatch.setattr(checkpoint, "write", look_and_write)
    engine.fit()
    assert found == [(step, list(range(1, step + 1))) for step in (3, 6, 9, 12)]


def test_the_recipe_says_so(tmp_path: Path) -> None:
    saving = {"every": "2 steps", "keep": 2, "keep_every": "1 epochs", "async": True}  # an epoch has 4 steps
    recipe = parse_recipe(tree(checkpoint=saving))
    train(recipe, tmp_path)
    assert steps(tmp_path / "checkpoints") == [4, 8, 10, 12]
    assert recipe.as_dict()["checkpoint"] == saving
    with pytest.raises(RecipeError, match="keep_every"):
        parse_recipe(tree(checkpoint={"keep_every": 1000}))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_in_the_background_the_files_are_those_of_the_step_that_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write is held back until training is two steps further, and training then waits for it."""
    built(tmp_path / "plain", every=4, keep=9).fit()
    engine, further, write = built(tmp_path / "background", every=4, keep=9, background=True), [], checkpoint.write
    went_on, written = threading.Semaphore(0), threading.Semaphore(0)

    def held_back(folder: Path, taken: checkpoint.Snapshot, _: Parallel | None) -> Path:
        assert went_on.acquire(timeout=20)
        further.append(engine.step - taken.state.step)
        path = write(folder, taken)
        written.release()
        return path

    class GoOn(Callback):
        def on_step(self, engine: Engine, logs: Logs) -> None:
            if engine.step in (6, 10):
                went_on.release()
                assert written.acquire(timeout=20)

        def on_end(self, engine: Engine) -> None:
            went_on.release()

    monkeypatch.setattr(checkpoint, "write", held_back)
    engine.callbacks.insert(0, GoOn())
    engine.fit()
    assert further == [2, 2, 0]
    assert contents(tmp_path / "background") == contents(tmp_path / "plain")


class Writes:
    """Counts those in flight; fails at a step."""

    def __init__(self, fails_at: int) -> None:
        self.fails_at, self.now, self.most, self.done = fails_at, 0, 0, []

    def __call__(self, folder: Path, taken: checkpoint.Snapshot, _: Parallel | None) -> Path:
        self.now += 1
        self.most = max(self.most, self.now)
        threading.Event().wait(0.02)
        self.now -= 1
        if taken.state.step == self.fails_at:
            raise OSError(f"no room for step {taken.state.step}")
        self.done.append(taken.state.step)
        return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fails_at", "ends_at", "done"), [(4, 6, [2]), (12, 12, [2, 4, 6, 8, 10]), (99, 12, [2, 4, 6, 8, 10, 12])]
)
def test_one_is_in_flight_and_its_error_comes_at_the_next_save_or_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int, ends_at: int, done: list[int]
) -> None:
    writes = Writes(fails_at)
    monkeypatch.setattr(checkpoint, "write", writes)
    engine = built(tmp_path, every=2, keep=2, background=True)
    if fails_at < 99:
        with pytest.raises(OSError, match=f"no room for step {fails_at}"):
            engine.fit()
    else:
        engine.fit()
    assert engine.step == ends_at
    assert writes.done == done
    assert writes.most == 1


def test_a_polite_stop_waits_for_what_is_being_written(tmp_path: Path) -> None:
    engine = built(tmp_path, every=2, keep=2, background=True)

    class Stop(Callback):
        def on_step(self, engine: Engine, logs: Logs) -> None:
            engine.stop_requested = engine.step == 5

    engine.callbacks.append(Stop())
    engine.fit()
    assert checkpoint_files.newest(tmp_path) == (tmp_path / "step-5", [])
    assert not list(tmp_path.glob(".draft-*"))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_a_failed_save_says_where_and_how_much_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    model, objective = torch.nn.Linear(256, 256), torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    good = checkpoint.save(tmp_path, model, objective, optimizer, checkpoint_files.State(1))
    (tmp_path / ".draft-of-a-killed-process").mkdir()

    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(checkpoint_files, "_sync", refuse)
    with pytest.raises(OSError, match="cannot write the checkpoint") as raised:
        checkpoint.save(tmp_path, model, objective, optimizer, checkpoint_files.State(2))
    message = str(raised.value)
    assert str(tmp_path / "step-2") in message
    assert os.strerror(code) in message
    assert ("it needs 0.3 MiB" in message) == (code != errno.EACCES)  # 256 x 257 + 3 numbers of 4 bytes
    assert checkpoint_files.newest(tmp_path) == (good, [])
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
