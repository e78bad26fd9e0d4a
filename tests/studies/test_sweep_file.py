"""A sweep's file: the runs that it makes, what makes them a fair comparison, and each mistake with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.errors import RecipeError
from workbench.recipe.schema import load_recipe
from workbench.studies.sweep import Sweep, find_runs, read_sweep

BASE = """
name: small
data: {name: synthetic, task: {name: xor}, samples: 64}
model: {dim: 8, encoders: {a: mlp, b: mlp, c: mlp}, fusion: {name: mlp}}
objective: {name: confu, lambda: 0.5}
train: {for: 2 steps, batch: 32}
eval: {synthetic: {}}
"""


def sweep_of(folder: Path, text: str, *overrides: str) -> Sweep:
    (folder / "small.yaml").write_text(BASE)
    (folder / "sweep_of.yaml").write_text(text)
    return read_sweep(folder / "sweep_of.yaml", overrides)


def test_runs_are_arms_times_grid_times_seeds_and_a_seed_added_later_comes_last(tmp_path: Path) -> None:
    text = (
        "name: it\nbase: small.yaml\nseeds: {}\narms: {{clip: {{objective: clip}}, confu: {{}}}}\n"
        "grid: {{train.lr: {{0.001: 1e-3, high: 3e-3}}, model.dim: [4]}}\n"
    )
    sweep = sweep_of(tmp_path, text.format("[4, 7]"))
    names = [f"{arm}-lr={lr}-dim=4" for arm in ("clip", "confu") for lr in (0.001, "high")]
    assert [run.name for run in sweep.runs()] == [f"{name}-seed{seed}" for seed in (4, 7) for name in names]
    assert sweep.runs()[0].folder == Path("runs/it/clip-lr=0.001-dim=4-seed4")
    more = sweep_of(tmp_path, text.format("[4, 7, 1]")).runs()
    assert [run.name for run in more[:8]] == [run.name for run in sweep.runs()]
    for run in sweep.runs(tmp_path / "r"):
        own = (f"seed={run.seed}", f"name=it/{run.name}", f"train.lr={run.recipe.train.lr}", "model.dim=4")
        other = ("objective=clip",) if run.arm.name.startswith("clip") else ()
        assert run.recipe == load_recipe(tmp_path / "small.yaml", (*other, *own)), "it differs in more than is said"
        assert run.folder.parent == tmp_path / "r"


def test_an_arm_may_have_a_recipe_of_its_own_and_overrides_win_in_order(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(BASE.replace("dim: 8", "dim: 6"))
    text = (
        "name: it\nbase: small.yaml\n"
        "arms: {a: other.yaml, b: {base: other.yaml, train: {lr: 0.5}}, c: {train.lr: 0.25}}\n"
    )
    dims = [(run.model.dim, run.train.lr, run.train.batch) for run in (a.recipe for a in sweep_of(tmp_path, text).arms)]
    assert dims == [(6, 1e-3, 32), (6, 0.5, 32), (8, 0.25, 32)]
    arms = sweep_of(tmp_path, text + "set: {train.batch: 16}\n", "train.batch=8", "train.eps=1").arms
    assert [(arm.recipe.train.batch, arm.recipe.train.eps) for arm in arms] == [(8, 1.0)] * 3
    assert arms[1].overrides == {"base": str(tmp_path / "other.yaml"), "train": {"lr": 0.5}}


def test_its_copy_says_the_same_from_another_folder(tmp_path: Path) -> None:
    text = (
        "name: it\nbase: small.yaml\nseeds: 2\n"
        "arms: {one: {eval.gap: {name: gap}}, two: {base: small.yaml, objective: clip}}\n"
        "grid: {train.lr: [1e-3, 2e-3]}\nset:\n  eval.synthetic: null\n  eval.retrieval:\n"
    )
    sweep = sweep_of(tmp_path, text, "train.eps=1")
    folder = tmp_path / "far" / "it"
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(sweep.text)
    again = read_sweep(folder)
    assert again.arms == sweep.arms
    assert again.runs(tmp_path) == sweep.runs(tmp_path)
    assert again.text == sweep.text
    assert (sweep.folder, again.folder) == (Path("runs/it"), folder)
    assert [list(arm.recipe.eval.evaluators) for arm in sweep.arms[::2]] == [["gap", "retrieval"], ["retrieval"]]


def test_runs_are_found_where_they_lie(tmp_path: Path) -> None:
    for name in ("b-seed10", "b-seed9", "a-seed1-seed2", "logs", "no-seed1"):
        (tmp_path / name).mkdir()
        if name[0] in "ab":
            (tmp_path / name / "recipe.yaml").touch()
    found = [
        ("a-seed1", 2, tmp_path / "a-seed1-seed2"),
        ("b", 9, tmp_path / "b-seed9"),
        ("b", 10, tmp_path / "b-seed10"),
    ]
    assert find_runs(tmp_path) == found


X = "name: it\nbase: small.yaml\narms:\n  x: {}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: it\nbase: small.yaml\narm: {x: {}}\n", "sweep_of.yaml:3: arm: unknown key 'arm'; did you mean 'arms'"),
        ("name: it\narms: {x: {}}\n", "sweep_of.yaml: base is missing"),
        ("name: it\nbase: smal.yaml\n", "sweep_of.yaml:2: no such recipe: "),
        ("name: it\nbase: small.yaml\narms:\n  x: emoji_itoo\n", "sweep_of.yaml:4: no such recipe: "),
        (f"{X}  x: {{train.lr: 1}}\n", "sweep_of.yaml:5: duplicate key 'x'"),
        (f"{X}  y: {{}}\n", "sweep_of.yaml:5: the arms 'x' and 'y' are the same recipe"),
        (f"{X}  y:\n    objective.lambda: 0.5\n", "sweep_of.yaml:6: arms.y: its overrides change nothing in "),
        (f"{X}  y:\n    objective.lamda: 0\n", "sweep_of.yaml:6: objective.lamda: unknown key 'lamda'; did you mean"),
        (f"{X}  y:\n    train:\n      lrr: 0\n", "sweep_of.yaml:7: train.lrr: unknown key 'lrr'; did you mean 'lr'"),
        (f"{X}  y: {{train.batch: many}}\n", "sweep_of.yaml:5: train.batch: "),
        (f"{X}  y: 3\n", "sweep_of.yaml:5: arms.y: write overrides"),
        (f"{X}  y: {{train..lr: 3}}\n", "sweep_of.yaml:5: 'train..lr': write a key"),
        (f"{X}  y/z: {{train.lr: 3}}\n", "sweep_of.yaml:5: arms: 'y/z' names a folder"),
        (f"{X}  X: {{train.lr: 3}}\n", "sweep_of.yaml:5: arms: 'X' and 'x' are one folder on some disks"),
        (f"{X}  y: {{seed: 3}}\n", "sweep_of.yaml:5: seed: every run of a sweep has its own: use `seeds`"),
        (f"{X}seeds: [3, 1, 3]\n", "sweep_of.yaml:5: seeds: seed 3 is there twice"),
        (f"{X}seeds: 0\n", "sweep_of.yaml:5: seeds: write how many seeds"),
        (f"{X}seeds: true\n", "sweep_of.yaml:5: seeds: write how many seeds"),
        (f"{X}seeds: [-1]\n", "sweep_of.yaml:5: seeds.0: "),
        (f"{X}grid:\n  train.lrr: [1]\n", "sweep_of.yaml:6: train.lrr: unknown key"),
        (f"{X}grid: {{train.lr: 3}}\n", "sweep_of.yaml:5: grid.train.lr: expected a list"),
        (f"{X}grid: {{train.lr: [1, 1]}}\n", "sweep_of.yaml:5: grid.train.lr: a value is there twice"),
        (f"{X}grid: {{train.lr: {{a b: 1}}}}\n", "sweep_of.yaml:5: grid.train.lr: 'a b' names folders"),
        (f"{X}  y: {{train.lr: 3}}\ngrid: {{train.lr: [1]}}\n", "the arms 'x-lr=1' and 'y-lr=1' are the same recipe"),
        (f"{X}  y: {{train.lr: 3}}\nset: {{train.lr: 1}}\n", "the arms 'x' and 'y' are the same recipe"),
        (f"{X}set: {{train.foor: 3}}\n", "sweep_of.yaml:5: train.foor: unknown key"),
        ("- x\n", "sweep_of.yaml:1: a sweep is a mapping of keys"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        sweep_of(tmp_path, text)
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_all_mistakes_are_told_at_once_with_their_arms(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        sweep_of(tmp_path, f"{X}  y: {{train.lrr: 1}}\n  z: {{train.bach: 8}}\n")
    first, second = str(error.value).splitlines()
    assert ":5: train.lrr: " in first
    assert first.endswith("(arm y)")
    assert ":6: train.bach: " in second


@pytest.mark.parametrize("name", ["ito_gapp", "nowhere/ito_gapp.yaml"])
def test_a_sweep_that_is_not_there_is_told_with_the_sweeps_there_are(name: str) -> None:
    with pytest.raises(RecipeError, match=r"no shipped one in sweeps; did you mean 'ito_gap'\? \(known: confu_abl"):
        read_sweep(name)
