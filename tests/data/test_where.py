"""Rows of one table are splits: `where` by other columns, in every source whose rows are in a table."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workbench.errors import BadSample, RecipeError
from workbench.loading.samples import Samples
from workbench.recipe.component import validate

ROWS = [{"x": [n, 1], "y": [n], "set": "abc"[n % 3], "year": 2000 + n % 2} for n in range(12)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def in_json(folder: Path) -> dict[str, Any]:
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return {"name": "json", "path": str(folder / "list.jsonl")}


def csv(folder: Path) -> dict[str, Any]:
    lines = [f"{row['x']};{row['y']};{row['set']};{row['year']}" for row in ROWS]
    (folder / "list.csv").write_text("\n".join(["x;y;set;year", *lines]))
    return {"name": "csv", "path": str(folder / "list.csv")}


def parquet(folder: Path) -> dict[str, Any]:
    for part in (0, 6):  # two files: names of rows and folders of paths go on
        pq.write_table(pa.Table.from_pylist(ROWS[part : part + 6]), folder / f"{part}.parquet")
    return {"name": "parquet", "path": f"{folder}/*.parquet"}


def hf(folder: Path) -> dict[str, Any]:
    """The set is a class: a number with a name."""
    data = datasets.Dataset.from_list(ROWS).cast_column("set", datasets.ClassLabel(names=["a", "b", "c"]))
    datasets.DatasetDict({"train": data}).save_to_disk(folder / "saved")
    return {"name": "hf", "path": str(folder / "saved")}


def build(block: dict[str, Any], **more: Any) -> Samples:
    vector = {"kind": "vector"}
    data: Any = validate("data", {**block, "fields": {"x": vector, "y": vector}, **more}).build()
    return data


def numbers(data: Samples, split: str) -> list[int]:
    return [int(y[0]) for y in data.split(split).items["y"].raw]


@pytest.mark.slow
@pytest.mark.parametrize("source", [in_json, csv, parquet, hf])
def test_rows_are_chosen_by_other_columns(tmp_path: Path, source: Callable[[Path], dict[str, Any]]) -> None:
    block = source(tmp_path)
    splits = {"c": {"set": "c"}, "late": {"set": ["b", "c"], "year": 2001}}
    data = build(block, where={"set": ["a"]}, validation_where={"set": "b", "year": 2000}, splits=splits)
    assert numbers(data, "train") == [0, 3, 6, 9]
    assert numbers(data, "validation") == [4, 10]
    assert numbers(data, "c") == [2, 5, 8, 11]
    assert numbers(data, "late") == [1, 5, 7, 11]
    assert [data.sample(n, np.random.default_rng(0)).inputs["x"][0][0].item() for n in range(4)] == [0, 3, 6, 9]
    assert list(data.train.beside.values()) == [8]
    divided = build(block, where={"set": "a"}, validation="25 %")
    assert sorted(numbers(divided, "train") + numbers(divided, "validation")) == [0, 3, 6, 9]


@pytest.mark.parametrize("source", [in_json, csv, parquet, hf])
def test_a_column_or_value_that_is_not_there_is_one_message(
    tmp_path: Path, source: Callable[[Path], dict[str, Any]]
) -> None:
    block = source(tmp_path)
    with pytest.raises(ValueError, match=r"no (key|column) 'sett'.*did you mean 'set'"):
        len(build(block, where={"sett": "a"}))
    with pytest.raises(ValueError, match=r"no row where .*'z'"):
        len(build(block, where={"set": "z"}))
    with pytest.raises(RecipeError, match="a share of the ids, or the rows of validation_where, not both"):
        build(block, validation="10 %", validation_where={"set": "a"})


def test_a_stream_reads_the_chosen_rows_alone(tmp_path: Path) -> None:
    data: Any = build(hf(tmp_path), where={"set": "b"}, streaming=True, samples=4)
    found = [data.decode(raw, n, np.random.default_rng(0)) for n, raw in enumerate(data.read(0))]
    assert not any(isinstance(each, BadSample) for each in found)
    assert [sample.inputs["y"][0].item() for sample in found] == [1, 4, 7, 10]
