"""CSV and TSV lists: open_clip's columns by default, several captions by columns or by rows, bad rows counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_pairs import pair

from workbench.data.csv import CSV
from workbench.recipe.component import validate


@pytest.fixture
def folder(tmp_path: Path, picture: Any) -> Path:
    (tmp_path / "images").mkdir()
    for n in range(1, 6):
        (tmp_path / "images" / f"{n}.png").write_bytes(picture(n))
    return tmp_path


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def test_defaults_are_open_clips(folder: Path, look: Any) -> None:
    tsv = write(
        folder / "a.tsv", "filepath\ttitle\tmore", "images/1.png\tone, 1\tx", f"{folder}/images/2.png\ttwo ü\ty"
    )
    data = CSV(path=tsv)
    assert [look(data, i) for i in range(len(data))] == [(1, ["one, 1"]), (2, ["two ü"])]


def test_commas_quotes_and_other_columns(folder: Path, look: Any) -> None:
    file = write(
        folder / "a.csv", "\ufeffurl,says", 'images/1.png,"one, ""1""\nand more"', "images/2.png,NA", "images/3.png,7"
    )
    data = CSV(path=file, **pair(image="url", text="says"))
    assert [look(data, i) for i in range(3)] == [(1, ['one, "1"\nand more']), (2, ["NA"]), (3, ["7"])]
    semicolons = write(folder / "b.csv", "filepath;title", "1.png;a, b")
    assert look(CSV(path=semicolons, sep=";", root=folder / "images"), 0) == (1, ["a, b"])


def test_columns_and_rows_of_one_picture_are_its_captions(folder: Path, look: Any) -> None:
    file = write(
        folder / "a.csv",
        "filepath,title,second",
        "images/1.png,a,b",
        "images/2.png,c,",
        "images/1.png,d,e",
    )
    data = CSV(path=file, **pair(text=("title", "second"), at_most=5, pick="first"))
    assert len(data) == 2
    assert [look(data, i) for i in range(2)] == [(1, ["a", "b", "d", "e"]), (2, ["c"])]
    split = CSV(path=file, validation=file, **pair(text=("title", "second"))).split("validation")
    assert split.items["text"].raw == ["a", "b", "d", "e", "c"]
    assert split.items["text"].ids.tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize(("ending", "sep"), [("csv", ","), ("tsv", "\t")])
def test_rows_with_other_numbers_of_fields_are_left_out_by_their_numbers(folder: Path, ending: str, sep: str) -> None:
    rows = [
        ["filepath", "title"],
        ["images/1.png", "a"],
        ["images/2.png"],
        ["images/3.png", "c", "d"],
        ["images/4.png", "e"],
    ]
    file = write(folder / f"a.{ending}", *map(sep.join, rows))
    data = CSV(path=file, max_bad=2)
    assert len(data) == 2
    assert data.skipped == [
        (f"{file}: row 3", "1 fields instead of 2"),
        (f"{file}: row 4", "3 fields instead of 2"),
    ]


def test_many_rows_keep_their_order(folder: Path) -> None:
    seed = int(np.random.default_rng().integers(2**31))
    numbers = np.random.default_rng(seed).integers(0, 40, size=300)
    halves = [
        write(folder / f"{i}.csv", "filepath,title", *(f"{n}.png,{k}" for k, n in part))
        for i, part in enumerate(np.array_split(list(enumerate(numbers)), 2))
    ]
    table = CSV(path=tuple(halves)).train
    expected: dict[str, list[str]] = {}
    for k, n in enumerate(numbers):
        expected.setdefault(f"{folder}/{n}.png", []).append(str(k))
    assert {table.name(i): table.cells(i, "text") for i in range(len(table))} == expected, seed
    assert [table.name(i) for i in range(len(table))] == list(expected), seed


def test_bad_rows_and_pictures_are_named(folder: Path, batches: Any) -> None:
    file = write(
        folder / "a.csv",
        "filepath,title",
        "images/1.png,one",
        "images/2.png,two,too many",
        "images/none.png,not there",
        "images/3.png,",
        "images/4.png,four",
    )
    with open(file, "ab") as out:  # noqa: PTH123
        out.write(b"images/5.png,\xff\xfe\n")
    data = CSV(path=file)
    assert len(data) == 5
    assert data.skipped == [(f"{file}: row 3", "3 fields instead of 2")]
    found = {s for batch in batches(data, 6) for s in batch.skipped}
    assert {(Path(s.name).name, s.reason.split(":")[0]) for s in found} == {
        ("none.png", "[Errno 2] No such file or directory"),
        ("3.png", "no caption"),
        ("5.png", "not UTF-8 (byte 0xff at 0)"),
    }


def test_mistakes_are_one_clear_message(folder: Path) -> None:
    file = write(folder / "a.csv", "filepath,caption", "images/1.png,one")
    with pytest.raises(ValueError, match=r"a.csv \(fields separated by ','\) has no column 'title'.*known: filepath"):
        len(CSV(path=file))
    with pytest.raises(ValueError, match=r"no column 'captoin'; did you mean 'caption'"):
        len(CSV(path=file, **pair(text="captoin")))
    with pytest.raises(ValueError, match=r"has a header, and no row"):
        len(CSV(path=write(folder / "empty.csv", "filepath,title")))
    data = CSV(path=f"{folder}/none.csv", samples=9)
    assert len(data) == 9
    assert "no CSV file matches" in (data.missing() or "")
    with pytest.raises(ValueError, match=r"no CSV file matches"):
        data.sample(0, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"set data.validation to"):
        CSV(path=file).split("validation")
    with pytest.raises(ValueError, match=r"no row that is a pair .*null.csv: row 2 \(names no picture"):
        CSV(path=write(folder / "null.csv", "filepath,title", ",one")).sample(0, np.random.default_rng(0))


def test_a_recipe_spells_it_out_and_runs_again_as_is() -> None:
    spec = validate(
        "data", {"name": "csv", "path": ["a.csv", "b.csv"], "sep": "\t", "fields": {"text": {"from": ["x", "y"]}}}
    )
    assert validate("data", spec.as_dict()).as_dict() == spec.as_dict()
    with pytest.raises(ValueError, match="max_pixels"):
        validate("data", {"name": "csv", "path": "a.csv", "fields": {"image": {"max_pixels": 10**9}}})
