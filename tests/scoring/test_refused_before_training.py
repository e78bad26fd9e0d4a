"""What an evaluator would look for in vain is told before anything is trained, with the key that mends it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from workbench.build import build_parts
from workbench.cli import cli
from workbench.data.folder import Folder
from workbench.errors import RecipeError
from workbench.recipe.schema import parse_recipe
from workbench.runs.cost import missing_data
from workbench.types import Items, Split

TOWERS = {
    "image": {
        "name": "open_clip",
        "config": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 16},
        "augment": "none",
    },
    "text": {"name": "open_clip", "config": {"context_length": 8, "width": 16, "heads": 1, "layers": 1}},
}


def recipe(data: dict[str, Any], evaluator: dict[str, Any] | None, **eval_section: Any) -> dict[str, Any]:
    return {
        "name": "r",
        "data": data,
        "model": {"dim": 16, "encoders": TOWERS},
        "objective": "clip",
        "train": {"for": "1 epochs", "batch": 2},
        "eval": {**({"e": evaluator} if evaluator else {}), **eval_section},
        "parallel": {"workers": 0},
        "log": {"tensorboard": False},
    }


def make_folder(where: Path) -> str:
    where.mkdir()
    rows = [{"file_name": f"{i}.png", "text": f"number {i}"} for i in range(4)]
    for i, row in enumerate(rows):
        Image.new("RGB", (8, 8), (60 * i, 9, 9)).save(where / row["file_name"])
    (where / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(where)


@pytest.mark.parametrize("name", ["retrieval", "gap", "zeroshot"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_pairs_that_hold_nothing_out_are_told_with_the_key(tmp_path: Path, name: str, split: str) -> None:
    folder = make_folder(tmp_path / "pairs")
    wanted = recipe({"name": "folder", "path": folder}, {"name": name, "split": split})
    key = r"validation" if split == "validation" else r"splits\.test"
    with pytest.raises(RecipeError, match=rf"eval\.e: this data has no split '{split}': set data\.{key} to"):
        build_parts(parse_recipe(wanted))


def test_a_split_that_is_not_given_is_told_with_those_that_are(tmp_path: Path) -> None:
    """A probe was told to set data.validation, which was set."""
    folder = make_folder(tmp_path / "pairs")
    wanted = recipe({"name": "folder", "path": folder, "validation": folder}, {"name": "probe"})
    with pytest.raises(
        RecipeError, match=r"eval\.e: this data has no split 'test' \(there are: validation\): set data\.splits\.test"
    ):
        build_parts(parse_recipe(wanted))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["train", "validation", "split"])
def test_each_of_the_three_splits_of_a_probe_is_looked_for(which: str) -> None:
    wanted = recipe({"name": "emoji"}, {"name": "probe", "label": "group", which: "nowhere"})
    with pytest.raises(RecipeError, match=r"eval\.e: the emoji data has no split 'nowhere'"):
        build_parts(parse_recipe(wanted))


@pytest.mark.parametrize(
    ("data", "split", "known"),
    [
        ({"name": "emoji"}, "held_out", "train, validation, test, style_a, style_b"),
        ({"name": "synthetic", "task": "image-text-match"}, "train", "validation, test"),
    ],
)
def test_other_data_name_their_splits(data: dict[str, Any], split: str, known: str) -> None:
    wanted = recipe(data, {"name": "retrieval", "split": split})
    with pytest.raises(RecipeError, match=f"no split '{split}'.*{known}"):
        build_parts(parse_recipe(wanted))


class WithTest(Folder):
    """A folder with a split that folders do not have."""

    def split(self, name: str) -> Split:
        return Split({"image": Items([], self.train.ids), "text": Items([], self.train.ids)})  # type: ignore[attr-defined]


def test_data_of_ones_own_may_have_other_splits(tmp_path: Path) -> None:
    """What it inherits knows the splits of its parent only."""
    folder = make_folder(tmp_path / "pairs")
    name = f"{WithTest.__module__}:{WithTest.__qualname__}"
    build_parts(parse_recipe(recipe({"name": name, "path": folder}, {"name": "retrieval", "split": "mine"})))


SOURCES: dict[str, Callable[[str], dict[str, Any]]] = {
    "folder": lambda where: {"name": "folder", "path": where},
    "csv": lambda where: {"name": "csv", "path": f"{where}/list.csv"},
    "json": lambda where: {"name": "json", "path": f"{where}/list.json"},
    "parquet": lambda where: {"name": "parquet", "path": f"{where}/*.parquet"},
    "shards": lambda where: {"name": "shards", "path": f"{where}/{{0..3}}.tar"},
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_key_that_points_to_nothing_is_the_one_that_is_named(tmp_path: Path, source: str) -> None:
    """All said data.path, whatever was not there: who followed the advice got the same message again."""
    training = SOURCES[source](str(tmp_path / "nowhere"))
    assert "--set data.path=" in (missing_data(parse_recipe(recipe(training, None))) or "")
    there = {"name": "folder", "path": make_folder(tmp_path / "pairs")}
    held_out = SOURCES[source](str(tmp_path / "neither"))["path"]
    data = parse_recipe(recipe(training | {"validation": held_out}, None)).data.build()
    with pytest.raises(ValueError, match=r"neither.*--set data\.validation="):
        data.split("validation")
    assert missing_data(parse_recipe(recipe(there, None))) is None


def test_held_out_pairs_that_are_not_there_are_told_before_the_first_epoch(tmp_path: Path) -> None:
    folder, run = make_folder(tmp_path / "pairs"), tmp_path / "run"
    data = {"name": "folder", "path": folder, "validation": str(tmp_path / "gone")}
    file = tmp_path / "r.yaml"
    file.write_text(json.dumps(recipe(data, {"name": "retrieval"}, start=False)))
    result = CliRunner().invoke(cli, ["pretrain", str(file), "--run", str(run)])
    assert result.exit_code == 1
    assert re.search(r"no folder '.*gone'.*--set data\.validation=/where", result.output)
    assert not (run / "checkpoints").exists()
    # where nothing evaluates, nothing is missing
    assert CliRunner().invoke(cli, ["pretrain", str(file), "--run", str(run), "--set", "eval.e=null"]).exit_code == 0


@pytest.mark.parametrize(("name", "key"), [("zeroshot", "label"), ("probe", "label")])
def test_a_label_that_the_data_do_not_have_is_told_with_a_guess(name: str, key: str) -> None:
    wanted = recipe({"name": "emoji"}, {"name": name, key: "subgroups"})
    with pytest.raises(RecipeError, match=r"eval\.e: the data have no label 'subgroups'; did you mean 'subgroup'\?"):
        build_parts(parse_recipe(wanted))


def test_a_label_that_no_recipe_declares_is_told_with_how_to(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pairs")
    data = {"name": "folder", "path": folder, "validation": folder}
    zeroshot = {"name": "zeroshot", "label": "shape"}
    with pytest.raises(RecipeError, match=r"no label 'shape': declare it, as data\.labels=(\{shape: .*\})") as caught:
        build_parts(parse_recipe(recipe(data, zeroshot)))
    declared = yaml.safe_load(str(caught.value).partition("data.labels=")[2])
    build_parts(parse_recipe(recipe(data | {"labels": declared}, zeroshot)))
