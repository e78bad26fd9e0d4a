"""`workbench.train` and `workbench.sweep`: the same runs as the commands', as data, and an interruption that saves."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from tiny_sweeps import train_here, write_sweep

import workbench
from workbench.engine import Engine, Logs
from workbench.errors import RecipeError
from workbench.recipe.schema import load_recipe
from workbench.runs.folder import RunError
from workbench.runs.train import train
from workbench.studies import sweeping
from workbench.training.metrics import Record, read
from workbench.types import Batch


def without_clock(records: list[Record]) -> list[Record]:
    return [{k: v for k, v in record.items() if not k.startswith("time/")} for record in records]


def small(folder: Path) -> Path:
    write_sweep(folder)
    return folder / "small.yaml"


def test_a_training_is_that_of_the_command_and_its_overrides_are_values(tmp_path: Path) -> None:
    file = small(tmp_path)
    changes = {"train.lr": 3e-3, "train.betas": (0.5, 0.9), "objective": {"name": "clip"}}
    found = workbench.train(file, run=tmp_path / "run", show=False, **changes)
    options = ("train.lr=3e-3", "train.betas=[0.5, 0.9]", "objective=clip")
    assert without_clock(found.records) == without_clock(train(load_recipe(file, options)).records)
    assert found.finished
    assert (found.step, found.steps, found.run) == (2, 2, tmp_path / "run")
    assert found.metrics["eval/synthetic/loss"] == read(tmp_path / "run" / "metrics.jsonl")[-1]["eval/synthetic/loss"]
    assert found.best is not None
    assert workbench.train(file, tmp_path / "run", show=False, **changes).metrics == found.metrics
    with pytest.raises(RunError, match=r"train.lr: 0.003 -> 0.001"):
        workbench.train(file, tmp_path / "run", show=False, **changes | {"train.lr": 1e-3})
    with pytest.raises(RecipeError, match=r"train.lrr=1: train.lrr: unknown key 'lrr'; did you mean 'lr'"):
        workbench.train(file, **{"train.lrr": 1})


def test_a_training_is_kept_in_runs_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(small(tmp_path)).as_dict()
    monkeypatch.chdir(tmp_path)
    nothing = workbench.train(recipe, run=False, show=False)
    assert nothing.run is None
    assert not Path("runs").exists()
    assert workbench.train(recipe, show=False).run == Path("runs/small")
    assert Path("runs/small/DONE").exists()


def test_ctrl_c_saves_and_the_same_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, handler, step = small(tmp_path), signal.getsignal(signal.SIGINT), Engine.train_step
    whole = workbench.train(file, run=False, show=False)

    def interrupted(self: Engine, batch: Batch) -> Logs:
        if self.step == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch)

    monkeypatch.setattr(Engine, "train_step", interrupted)
    first = workbench.train(file, tmp_path / "run", show=False)
    assert (first.step, first.finished) == (1, False)
    assert signal.getsignal(signal.SIGINT) is handler
    again = workbench.train(file, tmp_path / "run", show=False)
    assert again.finished
    assert without_clock(again.records) == without_clock(whole.records)


def test_a_training_in_another_thread_is_stopped_by_its_event(tmp_path: Path) -> None:
    file, stop, found = small(tmp_path), threading.Event(), list[object]()
    stop.set()
    thread = threading.Thread(
        target=lambda: found.append(workbench.train(file, tmp_path / "run", show=False, stop=stop).step)
    )
    thread.start()
    thread.join()
    assert found == [1]
    assert list((tmp_path / "run" / "checkpoints").glob("step-1"))


def test_a_training_ends_with_the_main_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.main_thread(), "is_alive", lambda: False)
    assert workbench.train(small(tmp_path), tmp_path / "run", show=False).step == 1


@pytest.mark.slow
def test_a_sweep_returns_its_arms_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweeping, "train_all", train_here)
    file = write_sweep(tmp_path)
    found = workbench.sweep(file, run=tmp_path / "r", jobs=1, **{"train.lr": 0.5})
    assert found.finished
    assert {name: arm.n for name, arm in found.arms.items()} == {"clip": 2, "confu": 2}
    assert {load_recipe(run.run / "recipe.yaml").train.lr for run in found.runs} == {0.5}
    said = capsys.readouterr()
    assert not said.out
    assert "confu-seed1 done in " in said.err
