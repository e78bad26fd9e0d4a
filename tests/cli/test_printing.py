"""What the command prints where a terminal is narrow, knows only ASCII, or has gone; tables that are never cut."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from forked import fork_workers, wb

from workbench.cli import cli
from workbench.cli._printing import allow_any_letter, find_chances, print_evaluations
from workbench.runs.report import compare_evaluations
from workbench.training.metrics import Best

SMALL = ("data.samples=128", "data.held_out=32", "train.batch=32", "train.for=2 steps", "eval.synthetic.batches=2")


def ascii_alone() -> None:
    """As PYTHONIOENCODING=ascii does it."""
    fork_workers()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="ascii")  # type: ignore[union-attr]


def open_pipe_to_nobody() -> int:
    """Open a pipe that nobody reads any more, as `| head -1` does when it has its line."""
    read, write = os.pipe()
    os.close(read)
    return write


def write_to_nobody() -> None:
    os.dup2(open_pipe_to_nobody(), 1)
    sys.stdout = os.fdopen(1, "w", closefd=False)  # the old one believes that it can seek, as in a file


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [("show", "objective", "ito"), ("show", "recipe", "synth/confu"), ("check", "synth/clip", "--json")],
    ids=" ".join,
)
def test_a_reader_that_has_gone_is_no_error(arguments: tuple[str, ...]) -> None:
    done = wb(*arguments, before=write_to_nobody)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_reader_that_has_gone_is_no_error_when_python_ends() -> None:
    """A process that is forked ends without that, so this one begins from nothing; it needs no torch."""
    write = open_pipe_to_nobody()
    command = [sys.executable, "-m", "workbench", "ls", "recipe"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_stream_spells_the_letters_that_its_encoding_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    allow_any_letter()
    for stream in streams.values():
        print("0.5±0.1 · … ü", file=stream, flush=True)
        assert stream.buffer.getvalue() == b"0.5+-0.1 - ... ?\n"  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_message_with_a_name_that_is_no_text_is_printed(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff.yaml")
    done = wb("check", name)
    assert done.returncode == 2
    assert "no such recipe" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_narrow_terminal_of_ascii_cuts_no_number_and_no_name_and_spells_its_letters() -> None:
    options = [word for key in SMALL for word in ("--set", key)]
    words = ("--task", "xor", "--objective", "clip", "--seeds", "2", "--jobs", "1")
    done = wb("synth", *words, *options, before=ascii_alone, COLUMNS="40")
    assert done.returncode == 0, done.stderr
    assert "accuracy+-s.e." in done.stdout
    assert "…" not in done.stdout
    assert "..." not in done.stdout
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("clip"))
    assert len(row) >= 9  # more where the seeds have different verdicts
    assert all(len(cell.partition("+-")[0]) >= 5 or cell == "-" for cell in row[1:7])
    listed = wb("synth", "--list", before=ascii_alone, COLUMNS="40")
    assert listed.returncode == 0, listed.stderr
    assert "..." not in listed.stdout
    assert {"image-text-xor", "m3-lite"} <= {(line.split() or [""])[0] for line in listed.stdout.splitlines()}


@pytest.mark.slow
def test_runs_are_a_line_each_in_a_pipe(tmp_path: Path) -> None:
    names = [f"a-very-long-name-of-a-run-in-a-sweep-of-many-settings-{lr}" for lr in (1, 2)]
    metric = "validation/image_plus_text_to_the_third_modality_recall_at_ten"
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(json.dumps({"name": name, "eval": {"best": metric}}))
        record = {"step": 8, "samples": 80, f"eval/{metric}": 0.25}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    done = wb("ls", "run", "--dir", str(tmp_path), COLUMNS="60")
    lines = [line for line in done.stdout.splitlines() if metric in line]
    assert sorted(line.split()[0] for line in lines) == names
    assert all(line.split()[-1] == "0.25" for line in lines)


def test_chances_belong_to_what_they_are_the_chance_of() -> None:
    names = ["v/a_to_b_r1", "v/a_to_b_chance_r1", "v/a_to_b_median_rank", "v/mean_recall", "z/accuracy", "z/majority"]
    names += ["z/balanced_accuracy", "z/chance", "z/top5", "p/a/accuracy", "p/b/balanced_accuracy", "p/chance", "g/l2m"]
    assert find_chances(names) == {
        "v/a_to_b_r1": "v/a_to_b_chance_r1",
        "z/accuracy": "z/majority",
        "z/balanced_accuracy": "z/chance",
        "p/a/accuracy": "p/chance",
        "p/b/balanced_accuracy": "p/chance",
    }


def test_the_headline_comes_first_and_nothing_is_lost_or_said_twice(capsys: pytest.CaptureFixture[str]) -> None:
    ways = [f"{a}_to_{b}" for a in ("image", "text", "de") for b in ("image", "text", "de") if a != b]
    values = {
        f"{e}/{w}{c}_r{k}": k / 100
        for e in ("validation", "concepts")
        for w in ways
        for c in ("", "_chance")
        for k in (1, 5)
    }
    values |= {
        "zeroshot/accuracy": 0.21,
        "zeroshot/chance": 0.111,
        "concepts/mean_recall": 0.3,
        "validation/mean_recall": 0.4,
    }
    records = [{"step": s, "samples": s} | {f"eval/{n}": v + s / 1000 for n, v in values.items()} for s in (0, 7, 9)]
    columns = compare_evaluations(records, Best("validation/mean_recall", 0.4, 7))
    assert list(columns) == ["step 0", "best, step 7", "last, step 9"]
    print_evaluations(columns, "validation/mean_recall")
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["metric", "step", "0", "best,", "step", "7", "last,", "step", "9", "(chance)"]
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert list(rows)[:3] == ["validation/mean_recall", "zeroshot/accuracy", "concepts/mean_recall"]
    assert set(rows) == {n for n in values if "chance" not in n}
    assert rows["validation/de_to_text_r5"] == ["0.05", "0.057", "0.059", "(0.059)"]
    assert rows["zeroshot/accuracy"][-1] == "(0.12)"


def test_steps_that_are_the_same_stand_once() -> None:
    records = [{"step": s, "samples": s, "eval/x/accuracy": 0.1} for s in (0, 5)]
    assert list(compare_evaluations(records, Best("x/accuracy", 0.1, 5))) == ["step 0", "best and last, step 5"]
    assert list(compare_evaluations(records[:1], None)) == ["last, step 0"]
    assert compare_evaluations([{"step": 1, "samples": 1, "train/loss": 0.1}], None) == {}


def test_a_run_without_evaluators_is_told_how_to_get_one(tmp_path: Path) -> None:
    run, options = tmp_path / "run", [word for key in (*SMALL, "eval.synthetic=null") for word in ("--set", key)]
    done = CliRunner().invoke(cli, ["pretrain", "synth/clip", "--run", str(run), *options[:8], *options[-2:]])
    assert done.exit_code == 0, done.output
    assert f"run folder {run}, on cpu, one process" in done.stderr
    asked = CliRunner().invoke(cli, ["eval", str(run)])
    assert asked.exit_code == 1
    assert "names no evaluator" in asked.stderr
    assert not asked.stdout
    added = CliRunner().invoke(cli, ["eval", str(run), "--set", "eval.s={name: synthetic, batches: 2}"])
    assert added.exit_code == 0
    assert "s/accuracy" in added.stdout


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "8"])
def test_missing_data_is_told_once_before_anything_is_built(tmp_path: Path, processes: str) -> None:
    run = tmp_path / "run"
    done = wb("pretrain", "ito_b16_cc12m", "--nproc", processes, "--run", str(run))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "data.path" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not run.exists()


@pytest.mark.slow
@pytest.mark.parametrize("dry", [True, False])
def test_a_batch_that_processes_cannot_share_is_refused_with_one_that_they_can(tmp_path: Path, dry: bool) -> None:
    done = wb("pretrain", "synth/clip", "--nproc", "7", "--run", str(tmp_path / "run"), *(["--dry"] if dry else []))
    assert done.returncode == 2
    assert "train.batch (256) must be a multiple of the number of processes (7): set train.batch=252" in done.stderr
    assert len(done.stderr.splitlines()) == 1
