"""Splits of a folder by lists of names: MM-IMDb's split.json, Pascal VOC's text files, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workbench.data.folder import Folder
from workbench.loading.fields import Fields


@pytest.fixture
def films(tmp_path: Path, picture: Any) -> Path:
    """0000001 to 0000006; 5 lacks its texts, 6 is in no list, and 22.05 has a dot in its name."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    for n in range(1, 7):
        (folder / f"{n:07}.jpeg").write_bytes(picture(n))
        if n != 5:
            (folder / f"{n:07}.json").write_text(json.dumps({"plot": [f"plot {n}", "again"], "genres": ["Drama"]}))
    (folder / "22.05.jpeg").write_bytes(picture(9))
    (folder / "22.05.json").write_text(json.dumps({"plot": ["plot 9"], "genres": ["War"]}))
    lists = {"train": ["0000003", "0000001", "0000005", "0000077"], "part": {"dev": ["0000002"]}, "test": ["22.05"]}
    (tmp_path / "split.json").write_text(json.dumps(lists))
    (tmp_path / "test.txt").write_text("0000004.jpeg\n\n  0000002  \n0000004.jpeg\n")
    return folder


def data(films: Path, names: str | None, **more: Any) -> Folder:
    fields = {"image": {"from": "jpeg"}, "text": {"from": "json:plot", "pick": "first"}}
    return Folder(path=str(films), names=names, fields=Fields.parse(fields), max_bad=10, **more)


def texts(source: Folder, split: str) -> list[str]:
    return list(source.split(split).items["text"].raw)


def test_each_split_has_the_samples_that_its_list_names(films: Path) -> None:
    lists = films.parent / "split.json"
    splits = {
        "validation": {"names": f"{lists}:part.dev"},
        "dotted": {"names": f"{lists}:test"},
        "lines": {"names": str(films.parent / "test.txt")},
    }
    found = data(films, f"{lists}:train", splits=splits)
    assert texts(found, "train") == ["plot 1", "again", "plot 3", "again"]
    assert texts(found, "validation") == ["plot 2", "again"]
    assert texts(found, "dotted") == ["plot 9"]
    assert texts(found, "lines") == ["plot 2", "again", "plot 4", "again"]


def test_what_is_not_used_is_counted(films: Path) -> None:
    """0000005 lacks its json, 0000077 is no file: both are left out; four good ones are of other lists."""
    table = data(films, f"{films.parent / 'split.json'}:train").train
    assert [each.name.rpartition("/")[2] for each in table.left_out] == ["0000005.jpeg", "split.json:train: 0000077"]
    assert [number for what, number in table.beside.items() if "does not name" in what] == [4]
    of_others = data(films, None, splits={"test": {"names": str(films.parent / "test.txt")}})
    assert not of_others.table(of_others.held_out["test"]).left_out, "0000005 is none of its own"
    every = data(films, None).train
    assert len(every) == 6
    assert len(every.left_out) == 1


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("split.json:trian", "no list of names under 'trian'.* did you mean 'train'"),
        ("split.json:part", "no list of names under 'part'"),
        ("none.json:train", r"no file '.*none.json' of names: .*--set data.names=/where"),
        ("split.json", "no sample that .*split.json names"),
        ("broken.json:a", "no JSON that can be read"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_message(films: Path, names: str, said: str) -> None:
    (films.parent / "broken.json").write_text("{'a': ")
    with pytest.raises(ValueError, match=said) as error:
        _ = data(films, str(films.parent / names)).train
    assert "\n" not in str(error.value)


def test_an_absent_list_of_a_split_is_told_by_its_key(films: Path) -> None:
    found = data(films, None, splits={"test": {"names": "none.txt"}})
    assert found.missing() is None
    assert "--set data.splits.test.names=" in (found.missing_held_out() or "")
    with pytest.raises(ValueError, match=r"a split is a folder, or \{names: "):
        data(films, None, splits={"test": {"name": "none.txt"}})


def test_lists_are_of_files_side_by_side(films: Path) -> None:
    (films / "metadata.jsonl").write_text(json.dumps({"file_name": "0000001.jpeg", "text": "one"}))
    with pytest.raises(ValueError, match=r"choose them by data\.where of json"):
        _ = Folder(path=str(films), names=f"{films.parent / 'split.json'}:train").train
