"""A term between what no sample has together is refused before the first step, with what samples have."""

import json
from pathlib import Path
from typing import Any

import pytest

from workbench.objectives.confu import ConFu
from workbench.objectives.symile import Symile
from workbench.recipe.schema import parse_recipe
from workbench.runs.meeting import refuse_terms_apart
from workbench.runs.train import train
from workbench.terms import Term, Terms
from workbench.types import Objective


def recipe(folder: Path, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    (folder / "list.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    fields = {name: {"kind": "vector", "dim": 1} for name in "abc"}
    return {
        "name": "meeting",
        "data": {"name": "json", "path": str(folder / "list.jsonl"), "fields": fields, **more},
        "model": {"dim": 4, "encoders": dict.fromkeys("abc", "mlp")},
        "objective": "clip",
        "train": {"for": "2 steps", "batch": 4},
        "parallel": {"workers": 0},
        "eval": {"start": False},
    }


APART: list[dict[str, Any]] = [{"a": [n], ("b" if n % 2 else "c"): [n]} for n in range(10)]


def test_it_is_refused_by_its_name_with_the_counts(tmp_path: Path) -> None:
    said = r"term b~c: none of 10 training samples has b and c together.* b 5, c 5; together a\+c 5, a\+b 5"
    with pytest.raises(ValueError, match=said):
        train(parse_recipe(recipe(tmp_path, APART)), tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_one_sample_that_has_both_is_enough_and_one_that_is_bad_is_not(tmp_path: Path) -> None:
    together = [*APART, {"b": [1], "c": [2]}]
    assert train(parse_recipe(recipe(tmp_path, together)), None).step == 2
    wanted = recipe(tmp_path, together)
    wanted["data"]["fields"]["a"]["required"] = True
    with pytest.raises(ValueError, match=r"term b~c: none of 11 training samples"):
        train(parse_recipe(wanted), None)


def objective(*terms: dict[str, Any]) -> Objective:
    from workbench.scale import Scale

    return Terms("abc", [Term.model_validate(term) for term in terms], Scale())


def test_rows_of_one_id_meet_where_positives_are_told_by_ids(tmp_path: Path) -> None:
    rows = [{**row, "film": n // 2} for n, row in enumerate(APART)]
    by_id = parse_recipe(recipe(tmp_path, rows, id="film")).data.build()
    alone = parse_recipe(recipe(tmp_path, rows)).data.build()
    mean = objective({"between": ["b", "c"], "positives": "mean"})
    refuse_terms_apart(mean, by_id)
    for data, wanted in ((alone, mean), (by_id, objective({"between": ["b", "c"]}))):
        with pytest.raises(ValueError, match="term b~c"):
            refuse_terms_apart(wanted, data)


def test_a_fused_side_needs_all_its_members(tmp_path: Path) -> None:
    pairs = [{"a": [1], "b": [1]}, {"b": [1], "c": [1]}, {"a": [1], "c": [1]}]
    data = parse_recipe(recipe(tmp_path, pairs)).data.build()
    with pytest.raises(ValueError, match=r"none of 3 training samples has (a and b and c|a and c and b|b and c and a)"):
        refuse_terms_apart(ConFu("abc"), data)


def test_an_objective_without_terms_needs_each_of_its_sides(tmp_path: Path) -> None:
    never = [{"a": [n], "b": [n], "c": None} for n in range(4)]
    with pytest.raises(ValueError, match=r"side c: none of 4 training samples has c"):
        refuse_terms_apart(Symile("abc"), parse_recipe(recipe(tmp_path, never)).data.build())
    refuse_terms_apart(Symile("abc"), parse_recipe(recipe(tmp_path, APART)).data.build())
