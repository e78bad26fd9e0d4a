"""What a run folder holds, who may use it, and what a resume may change; tests/faults breaks runs."""

import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from noisy_pairs import DATA
from safetensors.torch import load_file

from workbench.callbacks.nan_guard import NotFinite
from workbench.engine import Callback, Engine, Logs
from workbench.errors import RunError
from workbench.recipe.schema import load_recipe
from workbench.runs.folder import Run, find_checkpoint
from workbench.runs.resume_rules import MAY_CHANGE, is_in
from workbench.runs.train import train
from workbench.training import checkpoint_files
from workbench.training.checkpoint_files import DamagedCheckpoint
from workbench.training.metrics import Best, read

RECIPE = """
name: small
seed: 5
data: {{name: '{data}:Pairs'}}
model: {{dim: 8, encoders: {{a: {{name: mlp, width: 16, depth: 2, dropout: 0.1}}, b: mlp}}}}
objective: clip
train: {{for: 90 steps, batch: 32, microbatch: 16, lr: 0.01, warmup: 5 steps}}
eval: {{every: 20 steps, best: retrieval/mean_recall, retrieval: {{query: a, candidates: b}}}}
checkpoint: {{every: 7 steps, keep: 2}}
parallel: {{workers: 0}}
log: {{tensorboard: false}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "pairs.py").write_text(DATA)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(data=tmp_path / "pairs.py"))
    return path


def facts(run: Path) -> list[dict[str, Any]]:
    """Metrics without the clock."""
    return [{k: v for k, v in record.items() if not k.startswith("time/")} for record in read(run / "metrics.jsonl")]


def last_files(run: Path) -> dict[str, bytes]:
    newest = max((run / "checkpoints").glob("step-*"), key=lambda p: int(p.name[5:]))
    return {p.name: p.read_bytes() for p in newest.glob("*.safetensors")}


def stopped_at(recipe: Path, run: Path, step: int) -> None:
    train(load_recipe(recipe, (f"train.for={step} steps",)), run)


@pytest.mark.slow
def test_a_finished_run_says_so_and_a_longer_one_goes_on(recipe: Path, tmp_path: Path) -> None:
    run, plan = tmp_path / "run", load_recipe(recipe, ("train.for=15 steps",))
    assert not train(plan, run).already
    before = last_files(run)
    assert train(plan, run).already
    assert last_files(run) == before
    longer = train(load_recipe(recipe, ("train.for=20 steps",)), run)
    assert longer.finished
    assert longer.step == 20
    assert [r["step"] for r in facts(run) if "train/loss" in r] == list(range(1, 21))


FREE = (
    "train.for=8 steps",
    "log.every=2 steps",
    "checkpoint.keep=3",
    "checkpoint.every=5 steps",
    "eval.every=3 steps",
    "train.microbatch=8",
)
REFUSED = {
    "seed=6": "seed: 5 -> 6",
    "data.samples=150": "data.samples: 200 -> 150",
    "model.dim=16": "model.dim: 8 -> 16",
    "model.encoders.a.dropout=0.2": "model.encoders.a.dropout: 0.1 -> 0.2",
    "objective=siglip": "objective.name: clip -> siglip",
    "objective.scale.init=10": r"objective.scale.init: 14.2\d+ -> 10",
    "train.batch=64": "train.batch: 32 -> 64",
    "train.lr=0.02": "train.lr: 0.01 -> 0.02",
    "train.warmup=6 steps": "train.warmup: 5 steps -> 6 steps",
    "train.weight_decay=0.37": r"train.weight_decay: \S+ -> 0.37",
    "train.betas=[0.8, 0.9]": "train.betas: .* -> .*0.8",
    "train.clip=0.5": "train.clip: 1.0 -> 0.5",
    "train.precision=bf16": "train.precision: fp32 -> bf16",
    "train.compile=true": "train.compile: False -> True",
}


@pytest.mark.slow
def test_anything_else_that_changes_is_refused_by_name(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped_at(recipe, run, 7)
    before = last_files(run)
    for change, words in REFUSED.items():
        with pytest.raises(RunError, match=rf"another recipe:(.|\n)*  {words}(.|\n)*--fresh"):
            train(load_recipe(recipe, (change,)), run)
    with pytest.raises(RunError, match=r"seed: 5 -> 6\n  train.batch: 32 -> 64"):
        train(load_recipe(recipe, ("train.batch=64", "seed=6")), run)
    assert last_files(run) == before
    assert train(load_recipe(recipe, FREE), run).step == 8


@pytest.mark.slow
def test_fresh_sets_the_old_run_aside(recipe: Path, tmp_path: Path) -> None:
    run, said = tmp_path / "run", []
    stopped_at(recipe, run, 7)
    train(load_recipe(recipe, ("train.lr=0.02", "train.for=7 steps")), run, fresh=True, say=said.append)
    (aside,) = list(tmp_path.glob("run.*"))
    assert (aside / "DONE").exists()
    assert str(aside) in said[0]


def test_a_folder_in_use_is_refused(recipe: Path, tmp_path: Path) -> None:
    held = Run(tmp_path / "run")
    held.open(load_recipe(recipe))
    with pytest.raises(RunError, match="being trained by another process"):
        Run(tmp_path / "run").open(load_recipe(recipe))


@pytest.mark.slow
def test_the_run_folder_holds_what_it_promises(recipe: Path, tmp_path: Path) -> None:
    run, plan = tmp_path / "run", load_recipe(recipe, ("train.for=34 steps", "eval.best=min retrieval/mean_recall"))
    outcome = train(plan, run)
    assert {"recipe.yaml", "environment.json", "metrics.jsonl", "checkpoints", "DONE"} <= {
        p.name for p in run.iterdir()
    }
    assert load_recipe(run / "recipe.yaml").as_dict() == plan.as_dict()
    assert json.loads((run / "environment.json").read_text())["packages"]["torch"]
    lines = facts(run)
    assert [r["step"] for r in lines if "train/loss" in r] == list(range(1, 35))
    evaluated = [r["step"] for r in lines if "eval/retrieval/mean_recall" in r]
    assert evaluated == [0, 20, 34]
    assert outcome.best is not None
    assert outcome.best.value == min(r.get("eval/retrieval/mean_recall", 1) for r in lines)
    assert outcome.best.step < 28  # so that its checkpoint is none of the newest
    kept = {p.name for p in (run / "checkpoints").glob("step-*")}
    assert kept == {"step-28", "step-34", f"step-{outcome.best.step}"}
    weights = load_file(run / "checkpoints" / "step-34" / "model.safetensors")
    assert {"model.encoders.b.layers.0.weight", "objective.log_scales.shared"} <= weights.keys()


def test_an_unknown_best_metric_lists_the_ones_there_are(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no metric 'retrieval/r1' \(there are: retrieval/a_to_b_r1"):
        train(load_recipe(recipe, ("eval.best=retrieval/r1",)), tmp_path / "run")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.slow
def test_fresh_leaves_a_folder_alone_that_is_held(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped_at(recipe, run, 7)
    before = contents(run)
    held = Run(run)
    held.open(load_recipe(recipe, ("train.for=7 steps",)))
    before |= {name: x for name, x in contents(run).items() if name in ("recipe.yaml", "environment.json")}
    with pytest.raises(RunError, match="being trained by another process"):
        train(load_recipe(recipe, ("seed=6",)), run, fresh=True)
    assert contents(run) == before
    assert not list(tmp_path.glob("run.*"))
    held.release()
    train(load_recipe(recipe, ("seed=6", "train.for=7 steps")), run, fresh=True)
    train(load_recipe(recipe, ("seed=7", "train.for=7 steps")), run, fresh=True)
    assert len(list(tmp_path.glob("run.*"))) == 2  # also within one second


def test_a_lock_that_was_set_aside_with_its_folder_holds_nothing(recipe: Path, tmp_path: Path) -> None:
    """Between the opening of the lock and its taking, another process may have renamed the folder."""
    run, took = tmp_path / "run", []
    run.mkdir()
    (run / "left").touch()

    def rename_first(lock: Any, how: int) -> None:
        if not took:
            run.rename(tmp_path / "aside")
        took.append(lock)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fcntl.flock", rename_first)
        Run(run).open(load_recipe(recipe))
    assert len(took) == 2
    assert (run / "recipe.yaml").exists()
    assert [path.name for path in (tmp_path / "aside").iterdir() if path.name != ".lock"] == ["left"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_said_and_used(recipe: Path, tmp_path: Path, number: int) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    said: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fcntl.flock", no_locks)
        train(load_recipe(recipe, ("train.for=2 steps",)), tmp_path / "run", say=said.append)
    assert any("this file system has no locks" in line and "second process" in line for line in said)
    assert (tmp_path / "run" / "DONE").exists()


@pytest.mark.slow
def test_a_run_of_a_version_without_some_key_is_resumed(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped_at(recipe, run, 7)
    tree = yaml.safe_load((run / "recipe.yaml").read_text())
    del tree["train"]["compile"], tree["train"]["schedule"], tree["train"]["layer_decay"], tree["log"]
    del tree["model"]["encoders"]["b"]["dropout"], tree["objective"]
    tree["objective"] = "clip"
    (run / "recipe.yaml").write_text(yaml.safe_dump(tree))
    assert train(load_recipe(recipe, ("train.for=8 steps",)), run).step == 8
    with pytest.raises(RunError, match=r"train.compile: False -> True"):
        train(load_recipe(recipe, ("train.for=9 steps", "train.compile=true")), run)


@pytest.mark.slow
def test_a_longer_training_says_both_rates_and_may_keep_its_schedule(recipe: Path, tmp_path: Path) -> None:
    said: dict[str, list[str]] = {}
    for name, more in (("longer", ()), ("kept", ("train.schedule.for=20 steps",)), ("same", ())):
        stopped_at(recipe, tmp_path / name, 20)
        length = "20 steps" if name == "same" else "40 steps"
        said[name] = []
        train(load_recipe(recipe, (f"train.for={length}", *more)), tmp_path / name, say=said[name].append)
    rates = {name: {r["step"]: r["train/lr"] for r in facts(tmp_path / name) if "train/lr" in r} for name in said}
    assert rates["longer"][21] > rates["kept"][21] == rates["kept"][40] == rates["kept"][20] > 0
    (line,) = (line for line in said["longer"] if "learning rate" in line)
    assert f"step 21 is {rates['longer'][21]:.3g}" in line
    assert f"{rates['kept'][21]:.3g}" in line
    assert "train.schedule.for=20 steps" in line
    assert not any("learning rate" in line for line in said["kept"] + said["same"])


@pytest.mark.slow
def test_after_a_loss_that_is_no_number_every_remedy_works(recipe: Path, tmp_path: Path) -> None:
    class Poison(Callback):
        def on_step(self, engine: Engine, logs: Logs) -> None:
            if engine.step == 16:
                next(engine.model.parameters()).data.fill_(float("nan"))

    run, short = tmp_path / "run", ("train.for=20 steps",)
    with pytest.raises(
        NotFinite, match=f"checkpoint of step 14 is from before it.*--fresh.*model.init={run}"
    ) as raised:
        train(load_recipe(recipe, short), run, callbacks=[Poison()])
    assert "sound" not in str(raised.value)
    for settings in (("train.lr=1e-3",), ("train.warmup=8 steps",), ("train.clip=0.1",)):
        other = tmp_path / settings[0]
        train(load_recipe(recipe, (*short, *settings, f"model.init={run}")), other)
        train(load_recipe(recipe, (*short, *settings)), run, fresh=True)
        for path in tmp_path.glob("run.*"):  # the next one takes its weights
            shutil.rmtree(run)
            path.rename(run)
    with pytest.raises(NotFinite, match="No step was saved, so the same command"):
        train(load_recipe(recipe, (*short, "checkpoint.every=50 steps")), tmp_path / "early", callbacks=[Poison()])
    assert train(load_recipe(recipe, (*short, "train.lr=1e-3")), tmp_path / "early").finished


@pytest.mark.slow
def test_damaged_newer_checkpoints_do_not_push_fresh_ones_out(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped_at(recipe, run, 49)
    shutil.copytree(run / "checkpoints/step-49", run / "checkpoints/step-60")
    shutil.copytree(run / "checkpoints/step-49", run / "checkpoints/step-56")
    for step in (56, 60):
        (run / f"checkpoints/step-{step}/model.safetensors").write_bytes(b"cut")
    seen: list[set[int]] = []

    class Look(Callback):
        def on_step(self, engine: Engine, logs: Logs) -> None:
            if engine.step % 7 == 0:
                seen.append({checkpoint_files.step_of(path) for path in checkpoint_files.saved(run / "checkpoints")})

    outcome = train(load_recipe(recipe, ("train.for=70 steps",)), run, callbacks=[Look()])
    best = {outcome.best.step} if outcome.best else set()
    assert [found - best for found in seen] == [{49, 56, 60} - best, {56, 63} - best, {63, 70} - best]
    for path in checkpoint_files.saved(run / "checkpoints"):
        checkpoint_files.verify(path)


@pytest.mark.slow
def test_the_checkpoint_that_is_asked_for_is_found_or_named(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError, match="has no checkpoint yet"):
        find_checkpoint(run, "last")
    stopped_at(recipe, run, 21)
    best = checkpoint_files.read_state(run / "checkpoints/step-21").best
    assert best is not None
    assert find_checkpoint(run, "best").name == f"step-{best.step}"
    with pytest.raises(RunError, match=r"has no checkpoint '8' \(there are: last, best where eval.best is set, .*21"):
        find_checkpoint(run, "8")
    damaged = run / "checkpoints/step-21/model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="damaged checkpoint left alone"):
        assert find_checkpoint(run, "last").name != "step-21"
    assert find_checkpoint(run, "best").name == f"step-{best.step}"  # the state of the damaged one is whole
    with pytest.raises(DamagedCheckpoint, match=r"step-21: model.safetensors"):
        find_checkpoint(run, "21")
    shutil.rmtree(run / f"checkpoints/step-{best.step}")
    with pytest.raises(
        RunError, match=rf"best evaluation by retrieval/mean_recall \(.*\) was at step {best.step}, which"
    ):
        find_checkpoint(run, "best")


@pytest.mark.slow
def test_metrics_before_an_error_are_kept_and_every_callback_ends(recipe: Path, tmp_path: Path) -> None:
    ended = []

    class Fails(Callback):
        def on_step(self, engine: Engine, logs: Logs) -> None:
            engine.metrics._on_device, engine.metrics._flushed = True, float("inf")  # as if values waited on a GPU
            if engine.step == 12:
                raise ValueError("in the middle")

        def on_exit(self, engine: Engine) -> None:
            ended.append("this one, and it fails, too")
            raise RuntimeError("at the exit")

    class Ends(Callback):
        def on_exit(self, engine: Engine) -> None:
            ended.append("another")

    with pytest.raises(ValueError, match="in the middle"):
        train(load_recipe(recipe, ("checkpoint.every=50 steps",)), tmp_path / "run", callbacks=[Ends(), Fails()])
    assert ended == ["this one, and it fails, too", "another"]
    assert [r["step"] for r in facts(tmp_path / "run") if "train/loss" in r] == list(range(1, 13))


@pytest.mark.slow
def test_a_training_runs_in_any_thread_and_without_a_folder(recipe: Path, tmp_path: Path) -> None:
    plan = load_recipe(recipe, ("train.for=8 steps",))
    with ThreadPoolExecutor(1) as other:
        apart = other.submit(train, plan).result()
    inside = train(plan, tmp_path / "run")
    assert apart.run is None
    clockless = [[{k: v for k, v in r.items() if k[:5] != "time/"} for r in o.records] for o in (apart, inside)]
    assert clockless[0] == clockless[1]
    for name, x in inside.parts.model.state_dict().items():
        assert x.equal(apart.parts.model.state_dict()[name]), name


def test_only_what_alters_no_step_may_change() -> None:
    for key in ("train.for", "train.schedule.for", "log.every", "eval.retrieval.k", "eval.best", "parallel.workers"):
        assert is_in(key, MAY_CHANGE), key
    for key in ("train.format", "train.batch", "train", "evaluation", "logs.every", "data.path", "parallelism"):
        assert not is_in(key, MAY_CHANGE), key


@pytest.mark.slow
def test_a_run_that_was_stopped_is_not_done_and_keeps_its_best(recipe: Path, tmp_path: Path) -> None:
    class Stop(Callback):
        def on_step(self, engine: Engine, logs: Logs) -> None:
            engine.stop_requested = engine.step == 15

    plan = load_recipe(recipe, ("train.for=30 steps", "eval.every=10 steps", "eval.best=min retrieval/mean_recall"))
    whole = train(plan, tmp_path / "whole")
    run = tmp_path / "run"
    stopped = train(plan, run, callbacks=[Stop()])
    assert (stopped.step, stopped.finished, (run / "DONE").exists()) == (15, False, False)
    assert stopped.best == whole.best  # the worst recall is that of the first steps
    assert stopped.best is not None
    assert stopped.best.step < 15
    finished = train(plan, run)
    assert (finished.best, (run / "DONE").exists()) == (whole.best, True)
    assert checkpoint_files.read_state(run / "checkpoints/step-30").best == whole.best


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew_by_itself(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped_at(recipe, run, 9)
    for path in (run / "checkpoints").glob("step-*/model.safetensors"):
        path.write_bytes(path.read_bytes()[:-7])
    before, said = contents(run), list[str]()
    with pytest.raises(RunError, match="no whole checkpoint left; --fresh sets it aside"):
        train(load_recipe(recipe, ("train.for=12 steps",)), run, say=said.append)
    after = contents(run)
    assert all(after[name] == x for name, x in before.items() if name not in ("recipe.yaml", "environment.json"))
    assert sum("damaged checkpoint left alone" in line for line in said) == len(
        list((run / "checkpoints").glob("step-*"))
    )


@pytest.mark.slow
@pytest.mark.parametrize("background", [False, True])
def test_the_checkpoint_of_the_best_step_says_that_it_is_the_best(
    recipe: Path, tmp_path: Path, background: bool
) -> None:
    """It is saved before it is evaluated, so its state is amended behind the evaluation."""
    settings = ("train.for=40 steps", "checkpoint.every=20 steps", f"checkpoint.async={str(background).lower()}")
    outcome = train(load_recipe(recipe, settings), tmp_path / "run")
    name = "eval/retrieval/mean_recall"
    values = {record["step"]: record[name] for record in facts(tmp_path / "run") if name in record}
    assert values[0] < values[20] < values[40]
    for step in (20, 40):
        best = checkpoint_files.read_state(tmp_path / f"run/checkpoints/step-{step}").best
        assert best == Best("retrieval/mean_recall", values[step], step)
    assert outcome.best == best
