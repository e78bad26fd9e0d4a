"""Names and columns that tell splits apart, however people write them; nothing of another split is trained on."""

import json
from pathlib import Path

import pytest
from small_pairs import pair, picture, write
from test_lists import pairs

from workbench.data.csv import CSV
from workbench.data.folder import Folder
from workbench.data.json import JSON
from workbench.inspection.open_data import find, note_of, open_data
from workbench.loading.paths import by_split, expand


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("TrainSet/0.tar", "train"),
        ("trainset-0.tar", "train"),
        ("TrainImages/0.tar", "train"),
        ("cards_trainval.tar", "train"),
        ("train2017.tar", "train"),
        ("ValSet/0.tar", "validation"),
        ("valdata/0.tar", "validation"),
        ("minival.tar", "validation"),
        ("0-holdout.tar", "validation"),
        ("test_set/0.tar", "test"),
        ("cardsTest.tar", "test"),
        ("TESTSPLIT.tar", "test"),
        ("latest-0.tar", ""),
        ("contest.tar", ""),
        ("device.tar", ""),
        ("trainer.tar", ""),
        ("values.tar", ""),
        ("evaluate-me.tar", ""),
    ],
)
def test_names_tell_splits(name: str, split: str) -> None:
    assert by_split([f"/d/{name}", "/d/zzz"])[split][0] == f"/d/{name}"


def folder_of(at: Path, kind: str, column: str, values: list[str]) -> Path:
    for n, value in enumerate(values):
        (at / f"{n}.png").write_bytes(picture(10 * n))
        assert value
    rows = [{"file_name": f"{n}.png", "text": f"t{n}", column: value} for n, value in enumerate(values)]
    if kind == "csv":
        text = "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)])
    else:
        text = "\n".join(map(json.dumps, rows))
    (at / f"metadata.{kind}").write_text(text + "\n")
    return at


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize(("column", "values"), [("split", ["train", "test"]), ("Fold", ["TRAIN", "VAL", "TRAIN"])])
def test_a_column_of_metadata_that_tells_splits_is_not_ignored(
    tmp_path: Path, kind: str, column: str, values: list[str]
) -> None:
    """The remedy is tried as it is said."""
    data = Folder(path=str(folder_of(tmp_path, kind, column, values)))
    with pytest.raises(ValueError, match=rf"its column '{column}' has {values[0]} .*data.where={{{column}: "):
        len(data)
    metadata = str(tmp_path / f"metadata.{kind}")
    where = {column: values[0]}
    chosen = (
        CSV(path=metadata, **pair(image="file_name", text="text"), where=where)
        if kind == "csv"
        else JSON(path=metadata, **pair(image="file_name", text="text"), where=where)
    )
    kept = [n for n, value in enumerate(values) if value == values[0]]
    assert pairs(chosen) == [(10 * n, [f"t{n}"]) for n in kept]


@pytest.mark.parametrize("column", ["set", "fold", "phase", "usage", "data_split", "Subset"])
def test_columns_of_a_list_that_tell_splits(tmp_path: Path, column: str) -> None:
    (tmp_path / "0.png").write_bytes(picture(1))
    (tmp_path / "a.csv").write_text(f"filepath,title,{column}\n0.png,a,train\n0.png,b,valid\n")
    with pytest.raises(ValueError, match=f"its column '{column}' has train"):
        len(CSV(path=str(tmp_path / "a.csv")))
    (tmp_path / "a.csv").write_text(f"filepath,title,{column}\n0.png,a,red\n0.png,b,blue\n")
    assert len(CSV(path=str(tmp_path / "a.csv"))) == 1


def test_the_note_names_folders_that_are_there(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.png").write_bytes(picture(1))
        (tmp_path / split / "a.txt").write_text("said")
    note = note_of(str(tmp_path), None)
    assert note.endswith(f"test: {tmp_path / 'test'}")


@pytest.mark.parametrize("ending", [".TAR", ".Tar", ".tar"])
def test_files_with_capital_endings_are_found_in_a_folder(tmp_path: Path, ending: str) -> None:
    write(tmp_path / f"0{ending}", {"0.png": picture(1), "0.txt": b"said"})
    assert find(str(tmp_path)).block["name"] == "shards"
    assert len(open_data(str(tmp_path), None, ())[1]) == 1


def test_two_stars_are_any_number_of_folders(tmp_path: Path) -> None:
    for name in ("0.tar", "a/1.tar", "a/b/2.tar", ".hidden/3.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert expand(f"{tmp_path}/**/*.tar")[0] == [f"{tmp_path}/{name}" for name in ("0.tar", "a/1.tar", "a/b/2.tar")]
