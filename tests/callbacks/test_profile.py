"""The profile: it tells where time went, and changes nothing of what is trained."""

import gzip
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from workbench.build import build_engine, build_parts
from workbench.callbacks.profile import Profile
from workbench.cli.pretrain import pretrain_
from workbench.distributed.processes import Parallel
from workbench.engine import Callback, Engine, Logs
from workbench.recipe.schema import load_recipe
from workbench.runs.train import train
from workbench.training.metrics import Metrics, read
from workbench.types import Batch

SHORT = ("train.for=8 steps", "data.samples=640", "train.batch=64", "eval.every=99 steps", "eval.synthetic.batches=2")
SHORT += ("log.tensorboard=false", "checkpoint.every=4 steps")


def trained(run: Path, *overrides: str, profiled: bool) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Every metric but the clock, and the last weights."""
    callbacks = [Profile(run / "profile", warm=2, steps=3)] if profiled else []
    outcome = train(load_recipe("synth/confu", (*SHORT, *overrides)), run, callbacks=callbacks)
    facts = [{k: v for k, v in record.items() if not k.startswith("time/")} for record in read(run / "metrics.jsonl")]
    return facts, load_file(run / f"checkpoints/step-{outcome.step}" / "model.safetensors")


@pytest.mark.slow
def test_a_profile_changes_no_number_and_a_resume_may_have_one_or_not(tmp_path: Path) -> None:
    facts, weights = trained(tmp_path / "plain", profiled=False)
    for name, first, then in (("a", True, False), ("b", False, True)):
        trained(tmp_path / name, profiled=first)
        shutil.rmtree(tmp_path / name / "checkpoints/step-8")  # as if it had died after step 4 was saved
        (tmp_path / name / "DONE").unlink()
        again, same = trained(tmp_path / name, profiled=then)
        assert again == facts
        assert same.keys() == weights.keys()
        assert all(torch.equal(same[key], weights[key]) for key in weights)


class Sleeper(Callback):
    def on_step(self, engine: Engine, logs: Logs) -> None:
        time.sleep(0.03)


def profiled_engine(folder: Path) -> tuple[Engine, Profile]:
    """After its training, on batches that take 20 ms, with a callback that takes 30."""
    engine = build_engine(build_parts(load_recipe("synth/clip", SHORT)), Parallel(), Metrics(None))
    batches = engine.batches

    def slow(start: int) -> Iterator[Batch]:
        for batch in batches(start):
            time.sleep(0.02)
            yield batch

    profile = Profile(folder, warm=2, steps=3)
    engine.batches, engine.callbacks = slow, [Sleeper(), profile]
    engine.fit()
    return engine, profile


@pytest.mark.slow
def test_phases_operations_and_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine, profile = profiled_engine(tmp_path / "profile")
    assert engine.phase is nullcontext
    phases = profile.phases
    assert {"forward", "loss", "backward", "average gradients", "clip gradients", "optimizer", "metrics"} < set(phases)
    assert phases["data wait"] >= 0.02
    assert phases["Sleeper"] >= 0.03
    said = capsys.readouterr().err
    assert "phase, steps 3 to 5" in said
    shares = re.findall(r"([\d.]+)%", (tmp_path / "profile/phases.txt").read_text())
    assert sum(map(float, shares)) == pytest.approx(100, abs=0.05 * len(shares))
    operations = (tmp_path / "profile/top-ops.txt").read_text()
    groups = len(engine.optimizer.param_groups)
    assert re.search(rf"_fused_adamw_\s+│\s+{groups} │", operations)  # once a step for every group
    with gzip.open(tmp_path / "profile/trace.json.gz") as file:
        names = [event.get("name") for event in json.load(file)["traceEvents"]]
    assert names.count("forward") >= 3
    assert "aten::_fused_adamw_" in names


def test_a_run_that_ends_before_its_profile_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe("synth/clip", SHORT)
    train(recipe, tmp_path / "run", callbacks=[Profile(tmp_path / "run/profile", warm=8)])
    assert "no profile: it begins 8 steps after the start" in capsys.readouterr().err
    assert not (tmp_path / "run/profile").exists()


@pytest.mark.slow
def test_a_run_that_ends_within_its_profile_keeps_what_there_is(tmp_path: Path) -> None:
    recipe = load_recipe("synth/clip", SHORT)
    profile = Profile(tmp_path / "run/profile", warm=2, steps=50)
    train(recipe, tmp_path / "run", callbacks=[profile])
    assert profile.steps == 6
    assert "steps 3 to 8" in (tmp_path / "run/profile/phases.txt").read_text()


def test_other_processes_are_left_alone(tmp_path: Path) -> None:
    profile = Profile(tmp_path, warm=0, steps=1)
    engine: Any = SimpleNamespace(step=0, parallel=SimpleNamespace(rank=1), phase=nullcontext)
    profile.on_start(engine)
    for engine.step in (1, 2):
        profile.on_step(engine, {})
    profile.on_end(engine)
    assert engine.phase is nullcontext
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_prints_it_on_stderr(tmp_path: Path) -> None:
    overrides = [word for value in (*SHORT, "train.for=20 steps") for word in ("--set", value)]
    run = str(tmp_path / "run")
    done = CliRunner().invoke(pretrain_, ["synth/clip", *overrides, "--run", run, "--profile", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["finished"]
    assert "steps 6 to 15" in done.stderr
    assert sorted(p.name for p in (tmp_path / "run/profile").iterdir()) == [
        "phases.txt",
        "top-ops.txt",
        "trace.json.gz",
    ]
    refused = CliRunner().invoke(pretrain_, ["synth/clip", "--dry", "--profile"])
    assert refused.exit_code == 2
    assert "leave one out" in refused.stderr
