"""A term between what no sample has together is refused before the first step, with what samples have."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from workbench.cli import cli
from workbench.errors import RecipeError
from workbench.objectives.clip import CLIP
from workbench.objectives.confu import ConFu
from workbench.recipe.component import names, validate
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


TOGETHER = [*APART, {"a": [1], "b": [1], "c": [1]}]


def apart(folder: Path, rows: list[dict[str, Any]]) -> Any:
    return parse_recipe(recipe(folder, rows)).data.build()


@pytest.mark.parametrize("name", names("objective"))
def test_every_objective_is_refused_where_it_can_learn_nothing(tmp_path: Path, name: str) -> None:
    """None of `c` at all; pairs of which two never meet; and, of products of all, no sample that has all."""
    block: Any = {"name": name}
    if name == "terms":
        block["terms"] = [{"between": ["a", "c"]}]
    try:
        wanted: Any = validate("objective", block).build(tuple("abc"))
    except RecipeError:  # of two modalities, or of names of its own
        pytest.skip("not of three vectors")
    never = [{"a": [n], "b": [n], "c": None} for n in range(4)]
    with pytest.raises(ValueError, match=r"none of 4 training samples has .*c"):
        refuse_terms_apart(wanted, apart(tmp_path, never))
    if name in ("symile", "gram", "triangle"):
        with pytest.raises(ValueError, match=r"the objective: none of 10 training samples has a and b and c together"):
            refuse_terms_apart(wanted, apart(tmp_path, APART))
    if name in ("comm", "confu_chain", "hub"):  # a fusion of what is there; a chain begins elsewhere; a is the hub
        refuse_terms_apart(wanted, apart(tmp_path, APART))
    refuse_terms_apart(wanted, apart(tmp_path, TOGETHER))


def stream(folder: Path, rows: list[dict[str, Any]], parts: int) -> Any:
    for part in range(parts):
        with tarfile.open(folder / f"{part}.tar", "w") as tar:
            for n, row in enumerate(rows):
                info = tarfile.TarInfo(f"{n}.json")
                content = json.dumps(row).encode()
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    fields = {name: {"kind": "vector", "dim": 1, "from": f"json:{name}"} for name in "abc"}
    block = {"name": "shards", "path": f"{folder}/*.tar", "fields": fields, "streaming": True, "samples": 99}
    return validate("data", block).build()


def test_of_a_stream_the_beginning_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with pytest.raises(ValueError, match=r"term b~c: none of 10 training samples has b and c together"):
        refuse_terms_apart(CLIP("abc"), stream(tmp_path, APART, 1), said.append)
    refuse_terms_apart(CLIP("abc"), stream(tmp_path, TOGETHER, 1), said.append)
    assert not said
    refuse_terms_apart(CLIP("abc"), stream(tmp_path, APART, 2), said.append)
    monkeypatch.setattr("workbench.runs.meeting.FIRST", 10)
    refuse_terms_apart(CLIP("abc"), stream(tmp_path, TOGETHER, 1), said.append)
    assert len(said) == 2
    for line in said:
        assert line.startswith("warning: term b~c: none of the first 10 training samples has b and c together")
        assert line.endswith("the other samples of the stream are not looked at")


def test_wb_check_refuses_it_where_the_data_are_there(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(recipe(tmp_path, APART)))
    done = CliRunner().invoke(cli, ["check", str(file)])
    assert done.exit_code == 2
    assert "mine.yaml: term b~c: none of 10 training samples has b and c together" in done.stderr
    for rows in (TOGETHER, []):
        file.write_text(json.dumps(recipe(tmp_path, rows)))
        assert CliRunner().invoke(cli, ["check", str(file)]).exit_code == 0
    columns = {name: [row.get(name) for row in APART] for name in "abc"}
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    said = {"name": "parquet", "path": str(tmp_path / "list.parquet")}
    wanted = recipe(tmp_path, APART)
    file.write_text(json.dumps({**wanted, "data": {**wanted["data"], **said}}))
    assert "term b~c: none of 10" in CliRunner().invoke(cli, ["check", str(file)]).stderr
