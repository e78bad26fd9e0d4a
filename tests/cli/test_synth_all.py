"""`wb synth --task all`: a small matrix from start to end, a failing cell, and a resume after a kill."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from forked import start
from json_keys import assert_keys
from PIL import Image

from workbench.cli import cli
from workbench.studies import arms
from workbench.studies.side_by_side import Failed, Job, Trained, train_all

TINY = (
    *("data.samples=64", "data.held_out=16", "train.batch=32"),
    *("eval.synthetic.batches=2", "eval.synthetic.samples=64"),
)

ASTRAY = """
import os, signal
from workbench.objectives.clip import CLIP

class Broken(CLIP):
    def forward(self, z, pool):
        raise ArithmeticError("the loss went astray\\nand more of it")

class Killed(CLIP):
    def forward(self, z, pool):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def arguments(folder: Path, *more: str, settings: tuple[str, ...] = ()) -> list[str]:
    overrides = [part for setting in (*TINY, *settings) for part in ("--set", setting)]
    return ["synth", "--task", "all", "--run", str(folder), "--seeds", "1", *overrides, *more]


def wb(folder: Path, *more: str, settings: tuple[str, ...] = ()) -> Result:
    """In this process, which has torch already; trainings have their own."""
    return CliRunner().invoke(cli, arguments(folder, *more, settings=settings))


@pytest.mark.slow
def test_a_small_matrix_with_cells_that_fail(tmp_path: Path, no_new_interpreter: None) -> None:
    (tmp_path / "astray.py").write_text(ASTRAY)
    chosen, settings = ("--tasks", "xor d=3,and", "--objective", "clip"), ("train.for=2 steps",)
    out = ("--csv", str(tmp_path / "m.csv"), "--plot", str(tmp_path / "m.png"))
    broken = ("--objective", f"{tmp_path}/astray.py:Broken")
    done = wb(tmp_path / "r", *chosen, *broken, *out, "--jobs", "2", settings=settings)
    assert done.exit_code == 1, done.output
    assert "4 cells, 4 runs" in done.stderr
    assert "seed 0: ArithmeticError: the loss went astray\n" in done.stdout, done.stderr
    with (tmp_path / "m.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["verdict"] == "error" for line in lines] == [False, True, False, True]
    assert min(Image.open(tmp_path / "m.png").size) > 300

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("DONE")}
    assert len(before) == 2
    again = wb(tmp_path / "r", *chosen, "--objective", "gram", "--json", "--jobs", "1", settings=settings)
    assert again.exit_code == 0, again.output
    assert "4 cells, 4 runs" in again.stderr
    assert "2 of them finished before" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    rows = json.loads(again.stdout)
    assert_keys("synth --task all", rows)
    assert [(row["task"], row["row"]) for row in rows] == [("xor", "xor d=3"), ("and", "and")]
    measured = {line["row"]: float(line["accuracy"]) for line in lines if line["objective"] == "clip"}
    keys = {"objective", "seed", "accuracy", "chance", "bayes", "loss", "floor", "no_information_loss", "verdict"}
    for row in rows:
        assert row["truth"]["batch"] == 32
        assert [r["objective"] for r in row["results"]] == ["clip", "gram"]
        assert [c["predicted"] for c in row["cells"]] == (["F", "*"] if row["task"] == "xor" else ["P", "P"])
        assert all(keys <= r.keys() for r in row["results"])
        assert row["results"][0]["accuracy"] == measured[row["row"]]


@pytest.mark.slow
def test_a_process_that_is_killed_fails_one_run(tmp_path: Path, no_new_interpreter: None) -> None:
    (tmp_path / "astray.py").write_text(ASTRAY)
    small = (*TINY, "train.for=2 steps")
    killed, sound = (
        arms.recipe_of({"name": "xor"}, name, 0, small) for name in (f"{tmp_path}/astray.py:Killed", "clip")
    )
    (first, outcome), (second, trained) = train_all([Job(killed), Job(sound)], 1)
    assert (first, second) == (0, 1)
    assert outcome == Failed("ChildProcessError", "its process was killed, perhaps for want of memory")
    assert isinstance(trained, Trained)
    assert trained.total_weight == 3
    assert trained.facts["eval/synthetic/bayes"] == 1


@pytest.mark.slow
def test_a_killed_matrix_goes_on(tmp_path: Path, no_new_interpreter: None) -> None:
    settings = ("train.for=300 steps", "checkpoint.every=20 steps")
    chosen = ("--tasks", "xor d=3", "--objective", "clip", "--jobs", "1")
    folder = tmp_path / "r" / "xor-bits=3" / "clip-seed0"
    said = tmp_path / "said"
    first = start(arguments(tmp_path / "r", *chosen, settings=settings), said, said)
    until = time.monotonic() + 120
    while not list(folder.glob("checkpoints/step-*")):
        assert first.exitcode is None, said.read_text()
        assert time.monotonic() < until
        time.sleep(0.01)
    first.kill()
    first.join()
    assert not (folder / "DONE").exists()
    kept = (folder / "metrics.jsonl").read_text().splitlines()[:20]

    done = wb(tmp_path / "r", *chosen, "--json", settings=settings)
    assert done.exit_code == 0, done.output
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert lines[:20] == kept, "it began anew"  # time/step of these lines is that of the first process
    assert [r["step"] for line in lines if "train/loss" in (r := json.loads(line))] == list(range(1, 301))
    assert [r["seed"] for r in json.loads(done.stdout)[0]["results"]] == [0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "xor", "--plot", "m.png"], "--plot belongs to the matrix"),
        (["--task", "all", "--tasks", "xor,xorr"], "no task 'xorr' in the matrix; did you mean 'xor'?"),
        (["--task", "all", "--tasks", "xor", "--objective", "clipp"], "did you mean 'clip'?"),
    ],
)
def test_mistakes_end_in_one_message(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(cli, ["synth", *arguments])
    assert done.exit_code == 2
    assert message in done.stderr
    assert not done.stdout
