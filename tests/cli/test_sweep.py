"""`wb sweep` and `wb runs prune` as a person calls them; what needs processes of its own is slow."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Generator
from itertools import islice
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from forked import fork_workers, start
from json_keys import assert_keys
from tiny_sweeps import BASE, SWEEP, train_here, write_sweep

from workbench.cli import cli
from workbench.recipe.schema import load_recipe
from workbench.runs.train import train
from workbench.studies import sweeping
from workbench.studies.side_by_side import Outcome
from workbench.training.checkpoint_files import saved
from workbench.training.metrics import read


def wb(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)])


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "train_all", train_here)


@pytest.mark.slow
def test_a_sweep_from_its_plan_to_its_table(tmp_path: Path, here: None) -> None:
    text = SWEEP.replace("confu: {}", f"broken: {{objective: '{tmp_path}/astray.py:Broken'}}")
    file, runs = write_sweep(tmp_path, text), tmp_path / "r"
    where = ("sweep", file, "--run", runs)
    done = wb(*where, "--jobs", "1")
    assert done.exit_code == 1
    assert "clip " in done.stdout
    assert " ± " in done.stdout
    assert "objective: clip" in done.stdout
    assert "clip-seed0 done in " in done.stderr
    assert "failed: broken-seed1: the loss went astray" in done.stderr
    listed = json.loads(wb(*where, "--list", "--json").stdout)
    assert [(row["number"], row["arm"], row["seed"], row["state"]) for row in listed] == [
        (0, "clip", 0, "done"), (1, "broken", 0, "new"), (2, "clip", 1, "done"), (3, "broken", 1, "new"),
    ]  # fmt: skip
    printed = json.loads(wb("sweep", runs, "--json").stdout)
    assert_keys("sweep", printed)
    assert_keys("sweep: runs", printed["runs"])
    assert_keys("sweep: arms", list(printed["arms"].values()))
    assert printed["arms"]["clip"]["n"] == 2
    assert [run["state"] for run in printed["runs"]] == ["done", "failed"] * 2


@pytest.mark.slow
def test_one_run_by_its_number(tmp_path: Path, here: None) -> None:
    file, runs = write_sweep(tmp_path), tmp_path / "r"
    done = wb("sweep", file, "--run", runs, "--arm", "3", "--json")
    assert done.exit_code == 0, done.output
    assert_keys("sweep --arm", json.loads(done.stdout))
    assert json.loads(done.stdout)["run"] == str(runs / "confu-seed1")
    assert [path.name for path in runs.iterdir() if path.is_dir()] == ["confu-seed1"]
    for arguments, said in (
        (("--arm", "4"), "there are 4 runs, 0 to 3"),
        (("--arm", "1", "--dry"), "choose one"),
        (("--set", "train.lrr=1"), "did you mean 'lr'"),
    ):
        wrong = wb("sweep", file, "--run", runs, *arguments)
        assert wrong.exit_code == 2
        assert said in wrong.stderr
    other = wb("sweep", file, "--run", runs, "--arm", "3", "--set", "train.lr=0.5")
    assert other.exit_code == 1
    assert "train.lr: 0.001 -> 0.5" in other.stderr


def test_a_sweep_is_checked_as_recipes_are(tmp_path: Path) -> None:
    file = write_sweep(tmp_path)
    assert wb("check", file, "--json").stdout == f'{{"{file}": null}}\n'
    write_sweep(tmp_path, SWEEP.replace("clip: {", "gram: {model.dim: 4, model.fusion: null, "))
    wrong = wb("check", file, "--set", "objective=comm")
    assert wrong.exit_code == 2
    assert f"{file}: arm gram: " in wrong.stderr
    write_sweep(tmp_path, SWEEP.replace("objective", "objectiv"))
    assert ":5: objectiv: unknown key 'objectiv'; did you mean 'objective'" in wb("check", file).stderr


@pytest.mark.slow
def test_pruning_leaves_what_is_evaluated_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(BASE)
    recipe = load_recipe(tmp_path / "small.yaml", ("checkpoint.keep_every=1 steps", "eval.best=max synthetic/loss"))
    run = tmp_path / "r" / "one-seed0"
    best = train(recipe, run).best
    shutil.copytree(run, tmp_path / "r" / "two-seed0")
    (tmp_path / "r" / "two-seed0" / "DONE").unlink()
    size = sum(path.stat().st_size for path in run.rglob("checkpoints/*/*"))
    dry = json.loads(wb("runs", "prune", tmp_path / "r", "--weights", "--dry", "--json").stdout)
    assert [entry["why_not"] for entry in dry] == [None, "not finished"]
    assert len(saved(run / "checkpoints")) == 3
    done = wb("runs", "prune", tmp_path / "r", "--weights")
    assert done.exit_code == 0, done.output
    assert best is not None
    assert best.step < 2
    assert {path.name for path in saved(run / "checkpoints")} == {f"step-{best.step}", "step-2"}
    left = sum(path.stat().st_size for path in run.rglob("checkpoints/*/*"))
    assert abs(size - left - dry[0]["freed"]) < 2000  # of manifests
    assert len(saved(tmp_path / "r" / "two-seed0" / "checkpoints")) == 3
    assert wb("eval", run, "--checkpoint", "best").exit_code == 0
    assert train(recipe, run).already
    more = ("--set", "eval.best=max synthetic/loss", "--set", "train.for=9 steps")
    longer = wb("pretrain", tmp_path / "small.yaml", "--run", run, *more)
    assert longer.exit_code == 1
    assert "no state of the optimizer any more" in longer.stderr
    assert wb("runs", "prune", tmp_path / "none").exit_code == 2


def test_ctrl_c_ends_in_one_table_though_a_shell_had_it_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_one(*given: object, **options: object) -> Generator[tuple[int, Outcome], None, None]:
        yield from islice(train_here(*given, **options), 1)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGINT)
        yield from ()

    monkeypatch.setattr(sweeping, "train_all", train_one)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        done = wb("sweep", write_sweep(tmp_path), "--run", tmp_path / "r", "--jobs", "1")
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.exit_code == 0, done.output
    assert "stopped, saved: 3 runs are not done" in done.stdout


@pytest.mark.slow
def test_a_plan_trains_nothing(tmp_path: Path) -> None:
    file = write_sweep(tmp_path, SWEEP)
    dry = wb("sweep", file, "--run", tmp_path / "r", "--dry", "--jobs", "2")
    assert "4 runs" in dry.stdout
    assert "2 at once" in dry.stdout
    assert "minutes on this machine" in dry.stdout
    planned = json.loads(wb("sweep", file, "--run", tmp_path / "r", "--dry", "--json").stdout)
    assert_keys("sweep --dry", planned)
    assert planned["done"] == 0
    assert not (tmp_path / "r").exists()


def facts(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in r.items() if not k.startswith("time/")} for r in read(run / "metrics.jsonl")]


@pytest.mark.slow
def test_killed_in_the_middle_it_is_ended_bitwise_by_two_at_once_one_of_them_a_script_without_a_guard(
    tmp_path: Path,
) -> None:
    """The script starts its worker as a user's does, from nothing; the other workers are forked."""
    small = SWEEP.replace("seeds: 2", "seeds: 1") + "set: {train.for: 60 steps, eval.every: 60 steps}\n"
    file, runs = write_sweep(tmp_path, small), tmp_path / "r"
    (tmp_path / "small.yaml").write_text(BASE.replace("every: 1 steps", "every: 4 steps"))
    said, out, json_out, err = (tmp_path / name for name in ("said", "out", "json", "err"))
    command = ["sweep", str(file), "--run", str(runs), "--jobs"]
    killed = start([*command, "2"], said, said, fork_workers)
    until = time.monotonic() + 120
    while not all(list(runs.glob(f"{arm}-seed0/checkpoints/step-[1-9]*")) for arm in ("clip", "confu")):
        assert killed.exitcode is None, said.read_text()
        assert time.monotonic() < until
        time.sleep(0.01)
    killed.kill()
    killed.join()
    script = tmp_path / "script.py"
    call = f"workbench.sweep({str(file)!r}, run={str(runs)!r}, jobs=1)"
    script.write_text(f"import workbench\nprint({call}.finished)\n")
    first = start([], out, err, module=str(script))
    second = start([*command, "1", "--json"], json_out, err, fork_workers)
    for process in (first, second):
        process.join(120)
        assert process.exitcode == 0, err.read_text()
    assert out.read_text() == "True\n"
    assert {run["state"] for run in json.loads(json_out.read_text())["runs"]} == {"done"}
    for arm in ("clip", "confu"):
        run, whole = runs / f"{arm}-seed0", tmp_path / arm
        train(load_recipe(run / "recipe.yaml"), whole)
        assert facts(whole) == facts(run)
        weights = [(saved(path / "checkpoints")[-1] / "model.safetensors").read_bytes() for path in (run, whole)]
        assert weights[0] == weights[1]
