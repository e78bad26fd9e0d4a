"""Keys of older versions: a person is told the new words in one line, a run's own recipe is read as it was meant."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from workbench.errors import RecipeError
from workbench.recipe.renamed import translate
from workbench.recipe.schema import load_recipe

RECIPE = """
name: old
data: {DATA}
model: {dim: 8, encoders: {image: {name: open_clip, model: ViT-S-32-alt}, text: {name: open_clip, model: ViT-S-32-alt}}}
objective: clip
train: {for: 1 steps, batch: 2}
"""
OLD: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"name": "csv", "path": "a", "img_key": "url", "caption_key": ["x", "y"], "captions": 3, "pick": "first"},
        {"image": {"from": "url"}, "text": {"from": ["x", "y"], "at_most": 3, "pick": "first"}},
    ),
    (
        {"name": "shards", "path": "a", "image_key": "jpg;png", "caption_key": "caption", "views": 2},
        {"image": {"from": ["jpg", "png"], "views": 2}, "text": {"from": "json:caption"}},
    ),
    (
        {"name": "shards", "path": "a", "caption_key": ".syn.json:said", "image_key": None, "classes": None},
        {"text": {"from": "syn.json:said"}},
    ),
    (
        {"name": "folder", "path": "a", "caption_key": ".cap", "max_pixels": 1000, "captions": 1},
        {"image": {"max_pixels": 1000}, "text": {"from": ".cap"}},
    ),
]


@pytest.mark.parametrize(("old", "fields"), OLD)
def test_old_keys_are_told_in_the_new_words_which_are_then_taken(
    tmp_path: Path, old: dict[str, Any], fields: dict[str, Any]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(RECIPE.replace("{DATA}", json.dumps(old)))
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert "write it as fields: {" in said
    told = said.partition("write it as fields: ")[2].partition(" (got")[0]
    now = {key: value for key, value in old.items() if key in ("name", "path")}
    assert translate(old) == {**now, "fields": fields}
    file.write_text(RECIPE.replace("{DATA}", f"{{name: {now['name']}, path: a, fields: {told}}}"))
    assert load_recipe(file).data.settings.fields == load(tmp_path, old).data.settings.fields  # type: ignore[attr-defined]


def load(tmp_path: Path, old: dict[str, Any]) -> Any:
    """Read it as the resolved recipe of a run."""
    run = tmp_path / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    (run / "environment.json").write_text("{}")
    (run / "recipe.yaml").write_text(RECIPE.replace("{DATA}", json.dumps(old)))
    return load_recipe(run / "recipe.yaml")


def test_keys_that_say_nothing_are_left_out_and_other_data_keep_theirs(tmp_path: Path) -> None:
    usual = {"name": "csv", "path": "a", "views": 1, "captions": 1, "pick": "random", "max_pixels": 89478485}
    assert translate(usual) == {"name": "csv", "path": "a"}
    assert load(tmp_path, usual).data.settings.fields is None
    assert translate({"name": "emoji", "views": 2, "captions": 1}) is None
    assert translate({"name": "csv", "path": "a", "fields": {}}) is None


def with_eval(folder: Path, evaluator: dict[str, Any], name: str = "recipe.yaml") -> Path:
    (folder / name).write_text(RECIPE.replace("{DATA}", "emoji") + f"eval: {json.dumps(evaluator)}\n")
    return folder / name


def test_old_words_of_an_evaluator_are_told_in_the_new_ones_and_those_of_a_run_are_read(tmp_path: Path) -> None:
    old = {
        "zeroshot": {"target": "group", "templates": ["a {}", "{c}: it"]},
        "kind": {"name": "zeroshot", "target": "x"},
    }
    with pytest.raises(RecipeError) as caught:
        load_recipe(with_eval(tmp_path, old, "mine.yaml"))
    first, second = (line.partition(" (got")[0] for line in str(caught.value).splitlines())
    assert first.endswith('target and templates: write it as label: group, prompts: ["a {}", "{c}: it"]')
    assert second.endswith("target: write it as label: x")
    (tmp_path / "environment.json").write_text("{}")
    read = load_recipe(with_eval(tmp_path, old)).eval.evaluators
    new = {"zeroshot": {"label": "group", "prompts": ["a {}", "{c}: it"]}, "kind": {"name": "zeroshot", "label": "x"}}
    assert read == load_recipe(with_eval(tmp_path, new, "mine.yaml")).eval.evaluators
