"""Lists of pictures: each with a root of its own, quotation marks, separators, encodings, rows of some splits, JSON."""

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest
from small_pairs import pair, picture, read_pair

from workbench.data.csv import CSV
from workbench.data.json import JSON
from workbench.errors import BadSample


def pairs(data: Any) -> list[tuple[int, list[str]]]:
    """(grey level, captions) of every pair."""
    table = data.table(data.path)
    found = [read_pair(table, i, 10**6) for i in range(len(table))]
    return [(image.getpixel((0, 0))[0], captions) for image, captions in found]  # type: ignore[index]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in range(6):
        (tmp_path / f"{n}.png").write_bytes(picture(10 * n))
    return tmp_path


def test_each_list_has_a_root_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n, part in enumerate(("a", "b", "c/d")):
        (tmp_path / part).mkdir(parents=True)
        (tmp_path / part / "0.png").write_bytes(picture(10 * n))
        (tmp_path / part / "list.csv").write_text(f"filepath,title\n0.png,number {10 * n}\n")
    (tmp_path / "b" / "list.csv").open("a").write(f"{tmp_path}/a/0.png,again\n")
    expected = [(0, ["number 0", "again"]), (10, ["number 10"]), (20, ["number 20"])]
    lists = (f"{tmp_path}/?/list.csv", f"{tmp_path}/c/d/list.csv")
    assert pairs(CSV(path=lists, **pair(at_most=9))) == expected
    monkeypatch.chdir(tmp_path)
    found = pairs(CSV(path=("a/list.csv", "c/d/list.csv")))
    assert found == [(0, ["number 0"]), (20, ["number 20"])]


QUOTED = [
    # lines, used, left out
    (['0.png\t"green', "1.png\tblue", '2.png\tblack "n white', '3.png\t5" tall'], 4, 0),
    (['0.png\t"no parking" sign', '1.png\t"said ""twice"""', '2.png\t"whole"'], 3, 0),
    (['0.png,"12 inch', "1.png,second", '2.png,5" third', "3.png,fourth"], 1, 3),
    (['0.png,"12 inch', "1.png,second", "2.png,third"], 0, 3),
    (['0.png,"12 inch', "1.png,second", '2.png,ends so"', "3.png,fourth"], 1, 3),
    (['0.png,"a, b', 'and more"', "1.png,x"], 2, 0),
    (["0.png,a,b", "1.png", "2.png,c", ",d"], 1, 3),
]


@pytest.mark.parametrize(("lines", "used", "left_out"), QUOTED)
def test_quotation_marks_swallow_no_row_uncounted(folder: Path, lines: list[str], used: int, left_out: int) -> None:
    sep = "\t" if "\t" in lines[0] else ","
    (folder / "list").write_text("\n".join([sep.join(("filepath", "title")), *lines]) + "\n")
    data = CSV(path=str(folder / "list"))
    if not used:
        with pytest.raises(ValueError, match="row 2"):
            data.table(data.path)
        return
    table = data.table(data.path)
    assert (len(table), len(table.left_out)) == (used, left_out)
    for i in range(len(table)):
        assert all("\n" not in c or c == "a, b\nand more" for c in table.cells(i, "text"))  # type: ignore[operator]


def test_quotes_are_as_they_were_meant(folder: Path) -> None:
    lines = ['0.png\t"no parking" sign', '1.png\t"said ""twice"""', '2.png\t"whole"']
    (folder / "list").write_text("\n".join(["filepath\ttitle", *lines]))
    said = [captions for _, captions in pairs(CSV(path=str(folder / "list")))]
    assert said == [['"no parking" sign'], ['said "twice"'], ['"whole"']]
    (folder / "list").write_text("\n".join(['"filepath"\t"title"', '"0.png"\t"whole"', '"1.png"\t"two\nlines"']))
    assert [captions for _, captions in pairs(CSV(path=str(folder / "list")))] == [["whole"], ["two\nlines"]]
    (folder / "list").write_text('filepath,title\n0.png,"12 inch\n1.png,5" x\n')
    assert [captions for _, captions in pairs(CSV(path=str(folder / "list"), quote=None))] == [['"12 inch'], ['5" x']]


@pytest.mark.parametrize("sep", ["\t", ",", ";", "|"])
def test_separators_are_found(folder: Path, sep: str) -> None:
    (folder / "list").write_text(f"filepath{sep} title\n0.png{sep} a, b\n".replace("a, b", "a b"))
    assert pairs(CSV(path=str(folder / "list"))) == [(0, ["a b"])]
    (folder / "list").write_text(f"sep={sep}\nfilepath{sep}title\n1.png{sep}x\n")
    assert pairs(CSV(path=str(folder / "list"))) == [(10, ["x"])]


def test_a_tab_may_be_spelled_and_what_is_no_separator_is_refused(folder: Path) -> None:
    (folder / "list").write_text("filepath\ttitle\n0.png\ta\n")
    assert pairs(CSV(path=str(folder / "list"), sep="\\t")) == [(0, ["a"])]
    for sep in ("", "ab", '"', "\n"):
        with pytest.raises(ValueError, match=r"data\.sep is"):
            len(CSV(path=str(folder / "list"), sep=sep))
    with pytest.raises(ValueError, match="quote="):
        CSV(path="a", quote="ab")
    (folder / "list").write_text("")
    with pytest.raises(ValueError, match="is empty"):
        len(CSV(path=str(folder / "list")))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("sep", ["\t", ","])
def test_files_of_windows_are_read(folder: Path, encoding: str, sep: str) -> None:
    (folder / "list").write_bytes(f"filepath{sep}title\r\n.\\0.png{sep}un café\r\n".encode(encoding))
    assert pairs(CSV(path=str(folder / "list"))) == [(0, ["un café"])]


def test_cells_hold_base64_and_addresses(folder: Path) -> None:
    coded = base64.b64encode(picture(77)).decode()
    rows = [f"{coded}\tone", f"data:image/png;base64,{coded}\turi", "https://a.b/0.jpg\tnot here", "0.png\tfile"]
    (folder / "list").write_text("\n".join(["filepath\ttitle", *rows]))
    table = CSV(path=str(folder / "list")).table(CSV(path=str(folder / "list")).path)
    assert [read_pair(table, i, 1000)[0].getpixel((0, 0))[0] for i in (0, 1, 3)] == [77, 77, 0]  # type: ignore[index]
    assert all(len(table.name(i)) < 300 for i in range(4))
    assert len({table.name(i) for i in range(4)}) == 4
    with pytest.raises(BadSample, match="is an address: fetch the pictures first"):
        read_pair(table, 2, 1000)


def test_rows_of_a_split_are_chosen_and_not_mixed(folder: Path) -> None:
    rows = ["0.png,a,train", "1.png,b,train", "2.png,c,val", "3.png,d,test", "4.png,e,restval"]
    (folder / "list.csv").write_text("\n".join(["filepath,title,split", *rows]))
    path = str(folder / "list.csv")
    with pytest.raises(ValueError, match=r"column 'split' has train \(2\).*data.where=\{split: train\}"):
        len(CSV(path=path))
    data = CSV(path=path, where={"split": ("train", "restval")}, validation_where={"split": "val"})
    assert len(data) == 3
    assert data.split("validation").items["text"].raw == ["c"]
    assert sum(data.table(data.path).beside.values()) == 2
    with pytest.raises(ValueError, match="no column 'spilt'"):
        len(CSV(path=path, where={"spilt": "train"}))


COCO = {
    "images": [{"id": 7, "file_name": "0.png"}, {"id": 8, "file_name": "1.png"}, {"id": 9, "file_name": "2.png"}],
    "annotations": [{"image_id": 8, "caption": "b"}, {"image_id": 7, "caption": "a"}, {"image_id": 7, "caption": "c"},
                    {"image_id": 99, "caption": "of none"}],
}  # fmt: skip
KARPATHY = {
    "images": [
        {"filename": "0.png", "split": "train", "sentences": [{"raw": "a"}, {"raw": "c"}]},
        {"filepath": "val", "filename": "1.png", "split": "val", "sentences": [{"raw": "b"}]},
    ]
}


def test_coco_and_karpathy(folder: Path) -> None:
    path = folder / "captions.json"
    path.write_text(json.dumps(COCO))
    data = JSON(path=str(path), **pair(at_most=9, pick="first"))
    assert pairs(data) == [(0, ["a", "c"]), (10, ["b"])]
    assert [s.reason for s in data.table(data.path).left_out] == ["of no image, or without a caption", "no annotation"]
    path.write_text(json.dumps(KARPATHY))
    with pytest.raises(ValueError, match=r"mixes splits, its column 'split' has train \(1\), val \(1\)"):
        len(JSON(path=str(path)))
    (folder / "val").mkdir()
    (folder / "val" / "1.png").write_bytes(picture(99))
    data = JSON(path=str(path), where={"split": "train"}, validation_where={"split": "val"})
    assert pairs(data) == [(0, ["a", "c"])]
    assert [image.getpixel((0, 0))[0] for image in data.split("validation").items["image"].raw] == [99]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([{"image": "0.png", "caption": "a"}, {"image": "1.png", "caption": ["b", "c"]}]),
        json.dumps({"0.png": "a", "1.png": ["b", "c"]}),
        json.dumps([{"file_name": "./0.png", "text": "a", "id": 3}, {"file_name": "1.png", "text": ["b", "c"]}]),
    ],
)
def test_rows_under_the_usual_keys(folder: Path, content: str) -> None:
    (folder / "list.json").write_text("\ufeff" + content, encoding="utf-8")
    assert pairs(JSON(path=str(folder / "list.json"), **pair(at_most=9))) == [(0, ["a"]), (10, ["b", "c"])]


def test_json_lines_that_are_none_are_left_out(folder: Path) -> None:
    lines = [
        '{"image": "0.png", "caption": "a"}',
        "{",
        "[]",
        '{"caption": "b"}',
        '{"image": "1.png", "caption": "\\ud83d"}',
    ]
    (folder / "list.jsonl").write_text("\n".join(lines))
    table = JSON(path=str(folder / "list.jsonl")).table(JSON(path=str(folder / "list.jsonl")).path)
    assert (len(table), len(table.left_out)) == (1, 4)
    assert {int(s.name.rpartition(" ")[2]) for s in table.left_out} == {2, 3, 4, 5}


@pytest.mark.parametrize(
    "content", ["", "{", "5", "null", '"a"', "{}", "[" * 10**5, '{"images": 3}', "\x00", '[{"a": 1}]']
)
def test_json_that_names_no_pictures_is_one_message(folder: Path, content: str) -> None:
    (folder / "list.json").write_text(content)
    with pytest.raises(ValueError, match=r"list.json"):
        len(JSON(path=str(folder / "list.json")))


def test_a_picture_one_folder_below_is_named_and_not_taken(folder: Path) -> None:
    (folder / "val").mkdir()
    (folder / "val" / "9.png").write_bytes(picture(9))
    (folder / "list").write_text("filepath,title\n9.png,a\n")
    table = CSV(path=str(folder / "list")).table(CSV(path=str(folder / "list")).path)
    with pytest.raises(
        BadSample, match=r"No such file or directory: '9.png'; there is one in '.*val': is that data.root"
    ):
        read_pair(table, 0, 1000)


@pytest.mark.slow
def test_every_row_of_a_random_file_is_used_or_left_out(folder: Path) -> None:
    """Against counting lines: quotes, separators and lengths at random, no line in two records."""
    seed = random.randrange(2**31)
    rng = random.Random(seed)
    for _ in range(300):
        words = ['"', "a", ",", ' 5" ', "b c", '""', "x,y", ""]
        lines = [f"{n % 6}.png," + "".join(rng.choices(words, k=rng.randrange(4))) for n in range(rng.randrange(1, 9))]
        (folder / "list").write_text("\n".join(["filepath,title", *lines]) + "\n")
        source = CSV(path=str(folder / "list"))
        said: list[str] = []
        try:
            table: Any = source.table(source.path)
        except ValueError as error:
            said.append(str(error))
        if said:
            assert "row" in said[0], (seed, lines)
            continue
        rows = sum(len(column) for column in table.columns["text"])
        inside = sum(str(c).count("\n") for i in range(len(table)) for c in table.cells(i, "text"))
        assert inside == 0, (seed, lines)  # each of these lines begins as a row does
        assert rows + len(table.left_out) == len(lines), (seed, lines)
