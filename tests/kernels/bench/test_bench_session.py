"""A session for a GPU, played without one, keeps to its time, tunes, stops at wrong kernels, and reports."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from bench_remotes import ABOUT, PLAN, Clock, Here

from kernels.bench import gpu, report, sweep
from kernels.bench.measuring import Runner
from kernels.bench.providers import named
from kernels.bench.session import Deadline, Stage, Stop, run_stages
from kernels.bench.stages import PROFILED, Session
from kernels.bench.tuning import GPU_METHODS, check
from kernels.bench.worker import Failed
from kernels.bench.workload import Workload

pytestmark = pytest.mark.slow


def test_stages_share_the_time_and_outlive_an_error():
    clock, shares = Clock(), {}

    def stage(name, takes, error=None):
        def run(deadline):
            shares[name] = deadline.left()
            clock.now += takes
            if error:
                raise error
            return [f"half of {name}"]

        return Stage(name, 1.0, run)

    told = []
    stages = [stage("a", 10), stage("b", 70, RuntimeError("no driver")), stage("c", 60), stage("d", 1)]
    timeline = run_stages(stages, 120.0, lambda seconds, text: told.append((seconds, text)), clock)
    assert shares == {"a": 30.0, "b": pytest.approx(110 / 3), "c": 20.0}
    assert timeline.unreached == ["a: half of a", "b: RuntimeError: no driver", "c: half of c", "d: no time was left"]
    assert timeline.seconds == {"a": (0.0, 10.0), "b": (10.0, 70.0), "c": (80.0, 60.0)}
    assert not timeline.stopped

    def wrong(deadline):
        raise Stop("kernels are wrong")

    timeline = run_stages([Stage("a", 1.0, wrong), stage("b", 1)], 10.0, lambda *_: None, clock)
    assert timeline.stopped == "a: kernels are wrong"
    assert timeline.unreached == ["b: not begun"]


PRESENT = {"block_m": 128, "block_n": 128, "block_k": 64, "warps": 8, "stages": 3, "group": 8, "programs": 0}


def test_candidates_can_launch_and_begin_with_the_present_one():
    found = sweep.list_candidates(PRESENT, 2, 227 * 1024)
    assert found[0] == PRESENT
    assert len(found) == len({tuple(config.items()) for config in found})
    for config in found:
        tiles = (config["block_m"] + config["block_n"]) * config["block_k"] * config["stages"] * 2
        assert tiles <= 227 * 1024
        assert config["block_m"] * config["block_n"] / (32 * config["warps"]) < 255


def test_sweep_finds_the_fastest_records_failures_and_stops_in_time(tmp_path):
    clock = Clock()
    best = dict(PRESENT, block_n=256)
    alternatives = {"lse": sweep.list_candidates(PRESENT, 2, 227 * 1024), "gradient": [PRESENT, best]}

    def run(kernel, shape, config, seconds):
        clock.now += 1
        if config["stages"] == 2:
            raise Failed("out of resource: shared memory")
        return {"small": 1.0, "large": 4.0}[shape] * (0.5 if config == best else 1.0 + config["warps"] / 100)

    trials, untried = sweep.sweep(alternatives, ["small", "large"], run, Deadline(10_000.0, clock))
    assert untried == 0
    assert sweep.pick_winners(trials) == {"lse": best, "gradient": best}
    assert {trial.why for trial in trials if trial.seconds is None} == {"out of resource: shared memory"}
    text = sweep.write_python(sweep.pick_winners(trials), 90, 2, trials)
    assert text.splitlines()[0] == ('    (90, "lse", 2): Config(128, 256, 64, 8, 3),  # small: 2.16 x, large: 2.16 x')
    from kernels.tiles.configs import Config

    (key, config), *_ = eval("{" + text + "\n}", {"Config": Config}).items()
    assert (key, config) == ((90, "lse", 2), Config(**best))
    other = [sweep.Trial("lse", "small", PRESENT | {"strips": 4}, 1.0)]
    assert "Config(128, 128, 64, 8, 3, strips=4)" in sweep.write_python(sweep.pick_winners(other), 90, 2, other)
    sweep.write(tmp_path / "sweep.csv", trials)
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(trials)
    assert {row["why"] for row in rows if not row["seconds"]} == {"out of resource: shared memory"}

    trials, untried = sweep.sweep(alternatives, ["small", "large"], run, Deadline(7.0, clock))
    assert {trial.kernel for trial in trials} == {"lse", "gradient"}
    assert untried == sum(map(len, alternatives.values())) - 4


def session(out, tests=(0, "12 passed"), **overrides):
    machine = {"arch": 90, "shared_memory": 227 * 1024}
    table_ = {f"{kernel}/2": PRESENT for kernel in ("lse", "gradient", "each", "sigmoid")}
    fakes = {
        "about": lambda: dict(ABOUT),
        "architecture": lambda: machine | {"table": dict(table_)},
        "trial": lambda kernel, config, workload, mode, repeats: config["warps"] + config["block_k"] / 1000,
        "adopt": lambda winners: None,
        "ceilings": lambda dtype: [1e12, 1e11],
        "check": lambda backend, loss, dtype, shape: check(Runner("cpu"), "chunked", loss, "float32", (13, 17, 5)),
        "with_scratch": lambda num_bytes: 1.0,
        "predict": lambda workload, mode, winners: [
            {"name": "lse_tiles", "seconds": (1e-3, 5e-4, 2e-3), "bound": "l2"},
            {"name": "products of the library", "seconds": (3e-3, 2e-3, 4e-3), "bound": "tensor"},
        ],
        "time_kernels": lambda workload: {"lse_tiles": 2e-3, "merge": 1e-5},
        "profile": lambda workload: GPU_METHODS["profile"](Runner("cpu"), {"loss": "infonce", "n": 64, "d": 8}),
    }
    workloads = [(Workload("infonce", n, 8, 2), named(["chunked", "dense"])) for n in (16, 32)]
    return Session(
        out,
        lambda: Here(fakes | overrides),
        plan=PLAN,
        workloads=workloads,
        backend="chunked",
        run_tests=lambda seconds: tests,
        jobs=2,
    )


def test_a_session_writes_everything(tmp_path):
    s = session(tmp_path)
    timeline = run_stages(s.stages(), 120.0, lambda *_: None)
    report.write(tmp_path, s.found, timeline)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("results.csv", "sweep.csv", "predicted.csv", "plot.png", "report.md", "environment.json")
    }
    assert timeline.unreached == []
    text = (tmp_path / "report.md").read_text()
    assert "12 passed" in text
    assert '(90, "gradient", 2): Config(' in text
    assert "infonce · N 32 · D 8" in text
    assert PROFILED.title in text
    assert "aten::mm" in text
    assert json.loads((tmp_path / "environment.json").read_text())["device"] == "a cpu"
    assert s.found.winners["lse"]["warps"] == 4
    with (tmp_path / "predicted.csv").open() as file:
        kernel, *steps = list(csv.DictReader(file))
    assert (kernel["part"], float(kernel["ratio"])) == ("lse_tiles", 2.0)
    measured = [row["seconds"] for row in s.found.comparison.rows if row["provider"] == "chunked"]
    assert [float(row["measured"]) for row in steps] == pytest.approx(measured, rel=1e-4)
    assert [float(row["ratio"]) for row in steps] == pytest.approx([seconds / 4e-3 for seconds in measured], rel=1e-4)
    assert "| lse_tiles | 1.0 ms | 0.5 - 2.0 ms | 2.0 ms | 2.00 |" in text
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("what", ["check", "tests"])
def test_a_session_stops_when_kernels_are_wrong(tmp_path, what):
    bad = {"loss": "mean", "dtype": "bfloat16", "shape": "3 x 4 x 5", "error": 0.5, "allowed": 1e-2, "ok": False}
    s = session(tmp_path, check=lambda **_: [bad]) if what == "check" else session(tmp_path, (1, "2 failed"))
    timeline = run_stages(s.stages(), 60.0, lambda *_: None)
    report.write(tmp_path, s.found, timeline)
    assert ("error 5.0e-01 > 1e-02" if what == "check" else "2 failed") in timeline.stopped
    text = (tmp_path / "report.md").read_text()
    assert "**Stopped.**" in text
    assert "measure: not begun" in text


def test_tests_that_could_not_run_are_reported_and_no_reason_to_stop(tmp_path):
    s = session(tmp_path, (4, "No module named pytest"))
    timeline = run_stages(s.stages()[:1], 60.0, lambda *_: None)
    assert not timeline.stopped
    assert timeline.unreached == ["correctness: pytest -m gpu: No module named pytest"]


def test_without_a_gpu_it_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()
