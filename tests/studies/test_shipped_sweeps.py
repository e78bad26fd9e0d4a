"""The shipped sweeps: what their first line says, a step of each arm, and one that is trained whole at a tiny size."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tiny_sweeps import train_here

from workbench.build import build_engine, build_parts, prepare
from workbench.distributed.processes import Parallel
from workbench.recipe.yaml_file import recipe_names, shipped_recipes
from workbench.studies import sweeping
from workbench.studies.sweep import read_sweep
from workbench.studies.sweeping import train_sweep
from workbench.training.metrics import Metrics

SWEEPS = sorted(path.stem for path in (shipped_recipes() / "sweeps").glob("*.yaml"))


@pytest.mark.slow
def test_their_first_line_has_the_command_and_the_time_and_they_are_no_recipes() -> None:
    assert SWEEPS == [
        "confu_ablation",
        "confu_languages",
        "confu_modalities",
        "confu_synergy",
        "emoji",
        "ito_ablation",
        "ito_gap",
        "ito_noise",
        "ito_saturation",
        "lineup",
        "tux_frozen",
        "tux_scratch",
    ]
    for name in SWEEPS:
        first = (shipped_recipes() / "sweeps" / f"{name}.yaml").read_text().partition("\n")[0]
        sweep = read_sweep(name)
        assert first.startswith(f"# wb sweep sweeps/{name} ")
        assert f" {len(sweep.runs())} runs; " in first
        assert sweep.name == name.replace("_", "-")
    assert not [name for name in recipe_names() if "sweeps" in name]


@pytest.mark.slow
# tux: its data are not shipped; emoji: its arms are shipped recipes, which take steps elsewhere
@pytest.mark.parametrize("name", [name for name in SWEEPS if not name.startswith(("tux", "emoji"))])
def test_each_arm_takes_a_step(name: str) -> None:
    for run in read_sweep(name, ("train.batch=4", "parallel.workers=0")).runs(seeds=[0]):
        engine = build_engine(prepare(build_parts(run.recipe), Parallel()), Parallel(), Metrics(None))
        engine.steps = 1
        engine.fit()
        assert engine.step == 1, run.name
        assert math.isfinite(engine.metrics.records[-1]["train/loss"]), run.name


@pytest.mark.slow
def test_one_is_trained_whole_at_a_tiny_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "train_all", train_here)
    evaluation = "eval.synthetic={name: synthetic, batches: 2, samples: 32}"
    small = ("train.for=2 steps", "train.batch=8", "data.samples=32", "data.held_out=32", evaluation)
    found = train_sweep(read_sweep("confu_synergy", (*small, "log.tensorboard=false")), tmp_path, jobs=1, seeds=[0])
    assert found.finished
    assert found.metric == "eval/synthetic/accuracy"
    assert {name: arm.n for name, arm in found.arms.items()} == {"clip": 1, "confu": 1, "symile": 1}
