"""What a run folder holds, who may use it, and what a resume may change; tests/faults breaks runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from noisy_pairs import DATA
from safetensors.torch import load_file

from workbench.recipe.schema import load_recipe
from workbench.runs.folder import Run, RunError
from workbench.runs.train import train
from workbench.training.metrics import read

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


def test_a_finished_run_says_so_and_a_longer_one_goes_on(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert not train(load_recipe(recipe), run).already
    before = last_files(run)
    assert train(load_recipe(recipe), run).already
    assert last_files(run) == before
    longer = train(load_recipe(recipe, ("train.for=95 steps",)), run)
    assert longer.finished
    assert longer.step == 95
    assert [r["step"] for r in facts(run) if "train/loss" in r] == list(range(1, 96))


FREE = ("train.for=8 steps", "log.every=2 steps", "checkpoint.keep=3", "checkpoint.every=5 steps", "eval.every=3 steps")
REFUSED = {
    "seed=6": "seed: 5 -> 6",
    "data.samples=150": "data.samples: 200 -> 150",
    "model.dim=16": "model.dim: 8 -> 16",
    "model.encoders.a.dropout=0.2": "model.encoders.a.dropout: 0.1 -> 0.2",
    "objective=siglip": "objective.name: clip -> siglip",
    "objective.scale.init=10": r"objective.scale.init: 14.2\d+ -> 10",
    "train.batch=64": "train.batch: 32 -> 64",
    "train.microbatch=8": "train.microbatch: 16 -> 8",
    "train.lr=0.02": "train.lr: 0.01 -> 0.02",
    "train.warmup=6 steps": "train.warmup: 5 steps -> 6 steps",
    "train.weight_decay=0.37": r"train.weight_decay: \S+ -> 0.37",
    "train.betas=[0.8, 0.9]": "train.betas: .* -> .*0.8",
    "train.clip=0.5": "train.clip: 1.0 -> 0.5",
    "train.precision=bf16": "train.precision: fp32 -> bf16",
    "train.compile=true": "train.compile: False -> True",
}


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


def test_the_run_folder_holds_what_it_promises(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = train(load_recipe(recipe), run)
    assert {"recipe.yaml", "environment.json", "metrics.jsonl", "checkpoints", "DONE"} <= {
        p.name for p in run.iterdir()
    }
    assert load_recipe(run / "recipe.yaml").as_dict() == load_recipe(recipe).as_dict()
    assert json.loads((run / "environment.json").read_text())["packages"]["torch"]
    lines = facts(run)
    assert [r["step"] for r in lines if "train/loss" in r] == list(range(1, 91))
    evaluated = [r["step"] for r in lines if "eval/retrieval/mean_recall" in r]
    assert evaluated == [0, 20, 40, 60, 80, 90]
    assert outcome.best is not None
    assert outcome.best.value == max(r.get("eval/retrieval/mean_recall", 0) for r in lines)
    kept = {p.name for p in (run / "checkpoints").glob("step-*")}
    assert kept == {"step-84", "step-90", f"step-{outcome.best.step}"}
    weights = load_file(run / "checkpoints" / "step-90" / "model.safetensors")
    assert {"model.encoders.b.layers.0.weight", "objective.log_scales.shared"} <= weights.keys()


def test_an_unknown_best_metric_lists_the_ones_there_are(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no metric 'retrieval/r1' \(there are: retrieval/a_to_b_r1"):
        train(load_recipe(recipe, ("eval.best=retrieval/r1",)), tmp_path / "run")
