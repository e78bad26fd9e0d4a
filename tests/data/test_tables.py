"""Tables of Arrow: types that differ between files, roots of their own, classes, slices, columns that hold no text."""

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_pairs import pair, picture, read_pair

from workbench.data.hf import HF
from workbench.data.parquet import Parquet
from workbench.loading.captions import flat


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def write(path: Path, captions: pa.Array, images: Any = None) -> str:
    path.parent.mkdir(exist_ok=True, parents=True)
    pictures = pa.array([picture(n) for n in range(len(captions))]) if images is None else images
    pq.write_table(pa.table({"image": pictures, "caption": captions}), path)
    return str(path)


def captions(data: Any) -> list[list[object]]:
    table = data.table(data.path)
    return [flat(table.cells(i, "text")) for i in range(len(table))]


@pytest.mark.parametrize("empty_first", [True, False])
def test_a_file_whose_captions_are_all_missing_agrees_with_others(tmp_path: Path, empty_first: bool) -> None:
    nothing, texts = pa.array([None, None], pa.null()), pa.array(["a", "b"])
    for n, column in enumerate((nothing, texts) if empty_first else (texts, nothing)):
        write(tmp_path / f"{n}.parquet", column)
    expected = [[None], [None], ["a"], ["b"]] if empty_first else [["a"], ["b"], [None], [None]]
    assert captions(Parquet(path=f"{tmp_path}/*.parquet")) == expected


@pytest.mark.parametrize("other", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_types_that_arrow_casts_agree(tmp_path: Path, other: pa.DataType) -> None:
    write(tmp_path / "0.parquet", pa.array(["a"]))
    write(tmp_path / "1.parquet", pa.array(["b"]).cast(other))
    assert captions(Parquet(path=f"{tmp_path}/*.parquet")) == [["a"], ["b"]]


def test_types_that_differ_name_file_column_and_both(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", pa.array(["a"]))
    write(tmp_path / "1.parquet", pa.array([["a", "b"]]))
    with pytest.raises(ValueError, match=r"'caption' is list<.*> in .*1.parquet, and string in .*0.parquet: write all"):
        len(Parquet(path=f"{tmp_path}/*.parquet"))


def test_each_file_has_a_root_of_its_own(tmp_path: Path) -> None:
    for n, part in enumerate("ab"):
        write(tmp_path / part / "0.parquet", pa.array([f"number {n}", "x"]), pa.array(["0.png", "0.png"]))
        (tmp_path / part / "0.png").write_bytes(picture(n))
    data = Parquet(path=f"{tmp_path}/?/0.parquet")
    table = data.table(data.path)
    levels = [read_pair(table, i, 1000)[0].getpixel((0, 0))[0] for i in range(4)]  # type: ignore[index]
    assert levels == [0, 0, 1, 1]
    assert table.cells(2, "text") == ["number 1"]


@pytest.mark.parametrize("column", [pa.array([1, 2]), pa.array([1.5, 2.5]), pa.array([True, False])], ids=str)
def test_a_column_of_numbers_is_one_message(tmp_path: Path, column: pa.Array) -> None:
    write(tmp_path / "0.parquet", column)
    with pytest.raises(ValueError, match=r"column 'caption' of .* holds \w+, and captions are texts"):
        len(Parquet(path=f"{tmp_path}/0.parquet"))
    write(tmp_path / "1.parquet", pa.array(["a", "b"]), pa.array([1, 2]))
    with pytest.raises(ValueError, match=r"column 'image' of .* holds int64; pictures are"):
        len(Parquet(path=f"{tmp_path}/1.parquet"))


def test_blocks_are_no_captions(tmp_path: Path) -> None:
    block = pa.struct({"raw": pa.string(), "id": pa.int64()})  # pyarrow 21 sorts the keys of a type that it guesses
    write(tmp_path / "0.parquet", pa.array([[{"raw": "a", "id": 1}]], pa.list_(block)))
    with pytest.raises(ValueError, match=r"column 'caption' of .* holds blocks \(raw, id\)"):
        len(Parquet(path=f"{tmp_path}/0.parquet"))


def saved(path: Path, many: bool = False) -> str:
    label = datasets.ClassLabel(names=["a cat", "a dog"])
    columns = {"image": [picture(n) for n in range(4)], "label": [[n % 2] if many else n % 2 for n in range(4)]}
    features = {"image": datasets.Value("binary"), "label": [label] if many else label}
    rows = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    datasets.DatasetDict({"train": rows, "test": rows.select([1, 3])}).save_to_disk(path)
    return str(path)


@pytest.mark.parametrize("many", [False, True])
def test_classes_are_their_names(tmp_path: Path, many: bool) -> None:
    data = HF(path=saved(tmp_path / "saved", many), **pair(text="label"))
    assert captions(data) == [["a cat"], ["a dog"], ["a cat"], ["a dog"]]
    streamed = HF(path=str(tmp_path / "saved"), **pair(text="label"), streaming=True, samples=4)
    assert [flat(raw.cells["text"]) for raw in streamed.read(0)] == captions(data)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("split", "expected"),
    [("train[:50%]", 2), ("train[1:]", 3), ("train+test", 6), ("train[:1]+test[-1:]", 2)],
)
def test_what_was_saved_is_sliced_as_load_dataset_does(tmp_path: Path, split: str, expected: int) -> None:
    data = HF(path=saved(tmp_path / "saved"), **pair(text="label"), split=split)
    assert len(data.table(data.path)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("split", ["vali", "train+vali", "train[", "train[a:b]", "train[:200%]", "train[3:1]", "", "+"])
def test_a_slice_that_is_none_is_one_message(tmp_path: Path, split: str) -> None:
    with pytest.raises(ValueError, match=r"data.path=.*, split "):
        len(HF(path=saved(tmp_path / "saved"), **pair(text="label"), split=split))


def test_brackets_in_a_path_are_its_name(tmp_path: Path) -> None:
    for folder in ("x [1]", "y {a,b}", "z*"):
        path = write(tmp_path / folder / "0 [2].parquet", pa.array(["a", "b"]))
        assert captions(Parquet(path=path)) == [["a"], ["b"]]


def test_a_glob_of_several_splits_is_not_trained_on(tmp_path: Path) -> None:
    for name in ("train-0", "validation-0", "test-0"):
        write(tmp_path / f"{name}.parquet", pa.array(["a", "b"]))
    with pytest.raises(ValueError, match=r"mixes splits: .*test.*train.*validation"):
        len(Parquet(path=f"{tmp_path}/*.parquet"))
    assert len(Parquet(path=f"{tmp_path}/train-*.parquet")) == 2
    assert len(Parquet(path=(f"{tmp_path}/train-*.parquet", f"{tmp_path}/test-*.parquet"))) == 4
