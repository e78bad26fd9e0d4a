"""Ids, shares of them, and labels of tables: what is held out, and what probes read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.data.json import JSON
from workbench.loading.fields import Fields
from workbench.loading.labels import Label
from workbench.scoring.examples import Examples
from workbench.types import Side

pytestmark = pytest.mark.usefixtures("cache")


def test_equal_ids_are_positives_and_on_one_side_of_a_share(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"t{n}", "x": [n], "film": f"film {n % 10}"}) for n in range(50)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    said = Fields.parse({"text": {"from": "text"}, "x": {"kind": "vector"}})
    path = str(tmp_path / "list.jsonl")
    data = JSON(path=path, fields=said, id="film", validation="20 %", splits={"test": "10%"})
    films = {}
    for name in ("train", "validation", "test"):
        items = data.split(name).items["x"]
        films[name] = {int(x[0]) % 10 for x in items.raw}
        groups = {(int(x[0]) % 10, i) for x, i in zip(items.raw, items.ids.tolist(), strict=True)}
        assert len(groups) == len(films[name])
    assert [len(found) for found in films.values()] == [7, 2, 1]
    assert set.union(*films.values()) == set(range(10))
    ids = [data.sample(n, np.random.default_rng(0)).id for n in range(len(data))]
    assert len(data) == 35
    assert len(set(ids)) == 7
    again = JSON(path=path, fields=said, id="film", validation="20 %", splits={"test": "10%"})
    assert [x.tolist() for x in again.split("test").items["x"].raw] == [
        x.tolist() for x in data.split("test").items["x"].raw
    ]
    with pytest.raises(ValueError, match=r"validation: 1 % of 10 ids leave none for validation"):
        len(JSON(path=path, fields=said, id="film", validation="1 %"))
    with pytest.raises(ValueError, match="leaves nothing on one side"):
        JSON(path=path, fields=said, validation="100 %")


def test_rows_that_share_an_id_are_fused_by_themselves(tmp_path: Path) -> None:
    """A film's scenes are positives of each other; a query of picture and text takes both of one scene."""
    rows = [
        {"x": [n], "y": [1], "text": None if n == 3 else [f"t{n}", f"u{n}"], "film": n // 4 if n < 8 else 9}
        for n in range(9)
    ]
    said = Fields.parse({"text": {"from": "text"}, "x": {"kind": "vector"}, "y": {"kind": "vector"}})
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    split = JSON(path=str(tmp_path / "list.jsonl"), fields=said, id="film").split("train")
    pairs = Examples.of(split, Side.joining(("x", "text")))
    found = [(int(x[0]), text) for x, text in zip(pairs.raw["x"], pairs.raw["text"], strict=True)]
    own = [(n, f"t{n}") for n in (0, 1, 2)]
    assert found == [*own, (3, "t0"), *((n, f"t{n}") for n in (4, 5, 6, 7)), (8, "t8")]  # 3 has none of its own
    assert len(pairs.ids.unique()) == 3
    texts = Examples.of(split, Side.joining(("text", "x")))
    assert [int(x[0]) for x in texts.raw["x"]] == [0, 0, 1, 1, 2, 2, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]


def test_labels_are_classes_several_of_them_or_numbers(tmp_path: Path) -> None:
    genres = [["war", "love"], ["love"], [], ["sport", "love"]]
    rows = [
        {"text": f"t{n}", "x": [n], "genres": genres[n], "kind": n % 2, "year": [1990, None, "2001", 3.5][n]}
        for n in range(4)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "test.jsonl").write_text(json.dumps({**rows[0], "genres": ["opera", "war"], "kind": "other"}))
    (tmp_path / "classes.txt").write_text("a_cat\na dog\n")
    data: Any = JSON(
        path=str(tmp_path / "train.jsonl"),
        splits={"test": str(tmp_path / "test.jsonl")},
        fields=Fields.parse({"text": {"from": "text"}, "x": {"kind": "vector"}}),
        labels={
            "genre": Label.model_validate({"from": "genres", "many": True}),
            "kind": Label.model_validate({"from": "kind", "classes": str(tmp_path / "classes.txt")}),
            "year": Label.model_validate({"from": "year", "number": True}),
        },
    )
    train, test = data.split("train"), data.split("test")
    assert train.classes["genre"].names == ("love", "sport", "war")
    assert train.classes["kind"].prompts == (("a cat",), ("a dog",))
    for items in train.items.values():
        assert items.targets["genre"].int().tolist() == [[1, 0, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]]
        assert items.targets["kind"].tolist() == [0, 1, 0, 1]
        assert items.targets["year"].nan_to_num(-1).tolist() == [1990, -1, 2001, 3.5]
    assert test.items["text"].targets["genre"].int().tolist() == [[0, 0, 1]]
    assert test.items["text"].targets["kind"].tolist() == [-1]
    assert not data.sample(0, np.random.default_rng(0)).targets


def test_rows_of_one_list_are_splits(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"t{n}", "x": [n], "set": "abc"[n % 3]}) for n in range(9)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    said = Fields.parse({"text": {"from": "text"}, "x": {"kind": "vector"}})
    data = JSON(
        path=str(tmp_path / "list.jsonl"),
        fields=said,
        where={"set": "a"},
        splits={"b": {"set": "b"}, "c": {"set": "c"}},
    )
    assert [[int(x) for x in data.split(name).items["x"].raw] for name in ("train", "b", "c")] == [
        [0, 3, 6],
        [1, 4, 7],
        [2, 5, 8],
    ]
    with pytest.raises(ValueError, match=r"no split 'd' \(there are: b, c\)"):
        data.split("d")
