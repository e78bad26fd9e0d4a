"""Which folders are seeds of one arm: told by recipes, not by names."""

from pathlib import Path

import pytest
from fake_runs import WITNESS, make_run

from workbench.errors import RunError
from workbench.studies.grouping import diff_recipes, group_runs, read_runs

CLIP = {"objective": {"name": "clip"}}


def group(*paths: Path) -> dict[str, list[str]]:
    runs, complaints = read_runs(paths)
    assert not complaints
    return {name: [run.path.name for run in arm] for name, arm in group_runs(runs).items()}


def test_what_changes_no_result_makes_no_arm(tmp_path: Path) -> None:
    make_run(tmp_path / "clip-seed1", 1, [0.2], parallel__workers=4, log__every="5 steps", **CLIP)
    make_run(tmp_path / "clip-seed0", 0, [0.1], train__microbatch=None, name="other", **CLIP)
    make_run(tmp_path / "confu", 0, [0.3])
    assert group(tmp_path) == {"clip": ["clip-seed0", "clip-seed1"], "confu": ["confu"]}


def test_one_name_for_two_recipes_is_told_apart(tmp_path: Path) -> None:
    make_run(tmp_path / "clip-seed0", 0, [0.1], train__lr=0.1, **CLIP)
    make_run(tmp_path / "clip-seed1", 1, [0.1], train__lr=0.2, **CLIP)
    name = tmp_path.name
    assert group(tmp_path) == {f"{name}/clip train.lr=0.1": ["clip-seed0"], f"{name}/clip train.lr=0.2": ["clip-seed1"]}


def test_one_recipe_twice_is_two_arms_by_folder_or_refused(tmp_path: Path) -> None:
    for version in ("before", "after"):
        for seed in (0, 1):
            make_run(tmp_path / version / f"clip-seed{seed}", seed, [0.1], **CLIP)
    assert list(group(tmp_path / "before", tmp_path / "after")) == ["before/clip", "after/clip"]
    make_run(tmp_path / "before" / "clip_s0", 0, [0.1], **CLIP)
    with pytest.raises(RunError, match=r"clip-seed0 and .*clip_s0 have the same recipe and the same seed \(0\)"):
        group(tmp_path / "before")


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run folder, and there is none below it"):
        read_runs([tmp_path])
    make_run(tmp_path / "a", 0, [0.1])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "recipe.yaml").write_text("[")
    runs, complaints = read_runs([tmp_path])
    assert [run.path.name for run in runs] == ["a"]
    assert len(complaints) == 1
    assert "b/recipe.yaml cannot be read" in complaints[0]


def test_the_difference_of_recipes_is_only_what_differs(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 0, [0.1], train__lr=0.5)
    make_run(tmp_path / "b", 3, [0.1], **CLIP)
    a, b = read_runs([tmp_path / "a", tmp_path / "b"])[0]
    found = diff_recipes({"a": a, "b": b})
    assert found["train.lr"] == {"a": 0.5, "b": 0.01}
    assert found["objective.name"] == {"a": "confu", "b": "clip"}
    assert {key.partition(".")[0] for key in found} == {"train", "objective"}


def test_a_sweep_has_its_own_order_and_names_what_is_not_begun(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "two"
    for seed in (0, 1, 4):  # 4 was added later
        make_run(folder / f"second-seed{seed}", seed, [0.1])
    make_run(folder / "first-seed0", 0, [0.2], **CLIP)
    (tmp_path / "base.yaml").write_text(WITNESS.read_text())
    text = f"name: two\nbase: {tmp_path}/base.yaml\nseeds: 2\narms: {{second: {{}}, first: {{objective: clip}}}}\n"
    (folder / "sweep.yaml").write_text(text)
    runs, complaints = read_runs([folder])
    assert {name: [run.seed for run in arm] for name, arm in group_runs(runs).items()} == {
        "second": [0, 1, 4],
        "first": [0],
    }
    assert complaints == [f"{folder}/first-seed1 is not begun", f"{folder}/first-seed4 is not begun"]
    (tmp_path / "base.yaml").unlink()
    assert len(read_runs([folder])[0]) == 4  # the runs can still be compared
