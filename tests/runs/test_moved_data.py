"""Training data may be moved between two starts of a run; other data may not take their place."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from workbench.errors import RunError
from workbench.recipe.schema import Recipe, load_recipe, parse_recipe
from workbench.runs.train import train


def pairs(folder: Path, number: int = 12, shade: int = 0) -> Path:
    folder.mkdir(parents=True)
    lines = []
    for n in range(number):
        Image.new("RGB", (8, 8), (20 * n, 90, shade)).save(folder / f"{n}.png")
        lines.append(json.dumps({"file_name": f"{n}.png", "text": f"number {n}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def recipe(path: Path, steps: int, **data: Any) -> Recipe:
    towers = {
        "image": {"name": "open_clip", "augment": "none"},
        "text": {"name": "open_clip", "config": {"context_length": 8, "width": 16, "heads": 2, "layers": 1}},
    }
    towers["image"]["config"] = {"image_size": 8, "layers": 1, "width": 16, "head_width": 8, "patch_size": 4}
    return parse_recipe(
        {
            "name": "x",
            "data": {"name": "folder", "path": str(path)} | data,
            "model": {"dim": 8, "encoders": towers},
            "objective": "clip",
            "train": {"for": f"{steps} steps", "batch": 4},
            "parallel": {"workers": 0},
            "log": {"tensorboard": False},
        }
    )


@pytest.mark.slow
def test_moved_data_are_resumed_and_other_data_are_refused(tmp_path: Path) -> None:
    run, first = tmp_path / "run", pairs(tmp_path / "first")
    train(recipe(first, 2), run)
    moved = first.rename(tmp_path / "elsewhere")
    said: list[str] = []
    assert train(recipe(moved, 4), run, say=said.append).step == 4
    assert not any("not those" in line for line in said)
    train(recipe(moved, 5, validation=str(moved)), run)
    for other in (pairs(tmp_path / "more", 13), pairs(tmp_path / "shaded", shade=7)):
        with pytest.raises(RunError, match=r"data\.path: .*elsewhere -> (.|\n)*where the training data are the same"):
            train(recipe(other, 6, validation=str(moved)), run)
    with pytest.raises(RunError, match=r"data\.fields"):
        train(recipe(tmp_path / "elsewhere", 6, validation=str(moved), fields={"image": {"views": 2}}), run)


@pytest.mark.slow
def test_other_data_at_the_same_place_are_said(tmp_path: Path) -> None:
    run, first = tmp_path / "run", pairs(tmp_path / "first")
    train(recipe(first, 2), run)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(first / "0.png")
    said: list[str] = []
    train(recipe(first, 3), run, say=said.append)
    assert sum("not those that the run began with" in line for line in said) == 1


def test_a_start_that_took_no_step_is_no_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, first, said = tmp_path / "run", pairs(tmp_path / "first"), list[str]()
    with monkeypatch.context() as patch:
        patch.setattr("workbench.runs.train.build_engine", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(recipe(first, 1), run)
    assert (run / "data.json").exists()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(first / "0.png")
    train(recipe(first, 1), run, say=said.append)
    assert not any("began with" in line for line in said)


def test_a_run_that_has_no_fingerprint_keeps_its_path(tmp_path: Path) -> None:
    run, first = tmp_path / "run", pairs(tmp_path / "first")
    train(recipe(first, 2), run)
    (run / "data.json").unlink()
    with pytest.raises(RunError, match=r"data\.path"):
        train(recipe(first.rename(tmp_path / "elsewhere"), 3), run)


@pytest.mark.slow
def test_a_run_of_the_words_before_fields_goes_on_as_it_would_have(tmp_path: Path) -> None:
    first, run = pairs(tmp_path / "first"), tmp_path / "run"
    fields = {"image": {"views": 2}, "text": {"at_most": 2, "pick": "first"}}
    train(recipe(first, 3, fields=fields), run)
    shutil.copytree(run, tmp_path / "new")
    tree = yaml.safe_load((run / "recipe.yaml").read_text())
    old = {"image_key": "file_name", "caption_key": "text", "views": 2, "captions": 2, "pick": "first"}
    tree["data"] = {"name": "folder", "path": str(first), "max_bad": 0.01, "samples": None, **old}
    tree["train"]["for"] = "6 steps"
    (run / "recipe.yaml").write_text(yaml.safe_dump(tree))
    begun = [train(load_recipe(run / "recipe.yaml"), run), train(recipe(first, 6, fields=fields), tmp_path / "new")]
    losses = [[record["train/loss"] for record in each.records if "train/loss" in record] for each in begun]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6
