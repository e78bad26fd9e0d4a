"""Labels of one's own data: probes and zero-shot read classes, and say so of anything else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from workbench import load
from workbench.build import build_parts
from workbench.errors import RecipeError
from workbench.recipe.component import validate
from workbench.recipe.schema import Recipe, parse_recipe
from workbench.runs.train import train

LABELS = {"kind": "kind", "tags": {"from": "tags", "many": True}, "year": {"from": "year", "number": True}}


def recipe(folder: Path, **more: Any) -> Recipe:
    rows = [
        {"x": [n % 3, n / 60], "y": [n % 3, 1], "kind": "abc"[n % 3], "tags": ["a", "b"][: n % 3], "year": n, "id": n}
        for n in range(60)
    ]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    vector = {"kind": "vector"}
    data = {"name": "json", "path": str(folder / "list.jsonl"), "fields": {"x": vector, "y": vector}, "labels": LABELS}
    return parse_recipe(
        {
            "name": "labels",
            "data": {**data, "validation": "20 %", "splits": {"test": "20 %"}},
            "model": {"dim": 8, "encoders": {"x": "mlp", "y": "mlp"}},
            "objective": "clip",
            "train": {"for": "3 steps", "batch": 9},
            "parallel": {"workers": 0},
            "log": {"tensorboard": False},
            "eval": more,
        }
    )


def test_a_probe_reads_a_class_from_its_features(tmp_path: Path) -> None:
    parts = build_parts(recipe(tmp_path, probe={"name": "probe", "label": "kind", "on": ["x", "y"]}))
    found = dict(parts.evaluate(torch.device("cpu")))
    assert found["probe/chance"] == pytest.approx(1 / 3)
    assert found["probe/x/accuracy"] == 1  # the class is a linear function of x


def test_a_probe_reads_several_classes(tmp_path: Path) -> None:
    parts = build_parts(recipe(tmp_path, probe={"name": "probe", "label": "tags", "on": ["x"]}))
    found = dict(parts.evaluate(torch.device("cpu")))
    assert set(found) == {f"probe/{x}{f1}" for x in ("always_", "x/") for f1 in ("weighted_f1", "macro_f1")}
    assert found["probe/x/weighted_f1"] > found["probe/always_weighted_f1"]


@pytest.mark.parametrize(
    ("evaluator", "said"),
    [
        ({"name": "probe", "label": "year", "on": ["x"]}, "label 'year' is a number"),
        ({"name": "zeroshot", "target": "tags", "image": "x", "text": "y"}, "label 'tags' is several classes"),
        (
            {"name": "zeroshot", "target": "year", "image": "x", "text": "y"},
            "no classes named 'year'",
        ),
    ],
)
def test_what_is_no_class_is_refused_by_name(tmp_path: Path, evaluator: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dict(build_parts(recipe(tmp_path, e=evaluator)).evaluate(torch.device("cpu")))


def test_a_run_is_loaded_where_its_data_are_not(tmp_path: Path) -> None:
    train(recipe(tmp_path), tmp_path / "run")
    (tmp_path / "list.jsonl").unlink()
    assert load(tmp_path / "run").encode({"x": [[1.0, 2.0]]})["x"].shape == (1, 8)


def test_a_label_is_one_of_three(tmp_path: Path) -> None:
    with pytest.raises((RecipeError, ValidationError), match="a label is a number, or has classes, not both"):
        parse_recipe(recipe(tmp_path).as_dict() | {"data": {"name": "json", "path": "a", "labels": {"a": {
            "from": "a", "number": True, "many": True}}}})  # fmt: skip


def test_templates_are_the_lines_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "templates.txt").write_text("\ufeffa photo of a {}.\n\n a sketch of {c}\n", encoding="utf-8")
    found = validate("eval", {"name": "zeroshot", "templates": str(tmp_path / "templates.txt")})
    assert found.as_dict()["templates"] == ["a photo of a {}.", "a sketch of {c}"]
    for wrong, said in (("none.txt", "no text file"), (str(tmp_path), "no text file"), ("a {} b", "write a list")):
        with pytest.raises(ValidationError, match=said):
            validate("eval", {"name": "zeroshot", "templates": wrong})
    (tmp_path / "templates.txt").write_text("no place")
    with pytest.raises(ValidationError, match="'no place' needs one place"):
        validate("eval", {"name": "zeroshot", "templates": str(tmp_path / "templates.txt")})
