"""Layouts of JSON that people have; an id or a key that is there twice never gives a picture another one's captions."""

import json
from pathlib import Path

import pytest
from small_pairs import pair, picture
from test_lists import pairs

from workbench.data.folder import Folder
from workbench.data.json import JSON


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in range(4):
        (tmp_path / f"{n}.png").write_bytes(picture(10 * n))
    return tmp_path


def read(folder: Path, content: object) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """Return (grey level and captions of each pair, reasons of what is left out)."""
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "list.json").write_text(text)
    data = JSON(path=str(folder / "list.json"), **pair(at_most=9))
    return pairs(data), [skipped.reason for skipped in data.table(data.path).left_out]


ROWS = [{"image": "0.png", "caption": "a"}, {"image": "1.png", "caption": "b"}]


@pytest.mark.parametrize(
    "content",
    [
        {"data": ROWS},
        {"0": ROWS[0], "1": ROWS[1]},
        {"0.png": "a", "1.png": ["b"]},
        {"annotations": ROWS},
    ],
)
def test_rows_are_found_in_whatever_holds_them(folder: Path, content: object) -> None:
    assert read(folder, content) == ([(0, ["a"]), (10, ["b"])], [])


def test_one_row_alone_is_a_row(folder: Path) -> None:
    assert read(folder, ROWS[0]) == ([(0, ["a"])], [])


@pytest.mark.parametrize("content", [{"a": 1}, {}, {"info": {}, "rows": ROWS}, "3", "null", '"a"'])
def test_what_has_no_rows_says_which_layouts_are_known(folder: Path, content: object) -> None:
    with pytest.raises(ValueError, match="is neither COCO's JSON"):
        read(folder, content)


@pytest.mark.parametrize(
    "text",
    [
        '{"0.png": "a", "1.png": "b", "0.png": "c"}',
        '[{"image": "0.png", "image": "1.png", "caption": "a"}]',
        '[{"image": "0.png", "caption": "a", "caption": "b"}]',
        '{"images": [], "annotations": [], "images": [{"id": 1}]}',
    ],
)
def test_a_key_that_is_there_twice_is_refused(folder: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"list\.json .*the key '[\w.]+' is there twice"):
        read(folder, text)


def test_a_line_with_a_key_twice_is_left_out(folder: Path) -> None:
    lines = ['{"file_name": "0.png", "text": "a"}', '{"file_name": "0.png", "file_name": "1.png", "text": "b"}']
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    data = Folder(path=str(folder))
    assert pairs(data) == [(0, ["a"])]
    assert "the key 'file_name' is there twice" in data.table(data.path).left_out[0].reason


def coco(images: list, annotations: list) -> dict:
    return {"images": images, "annotations": annotations}


def image(number: int, key: object = None) -> dict:
    return {"id": number if key is None else key, "file_name": f"{number}.png"}


def caption(key: object, text: object = "said") -> dict:
    return {"image_id": key, "caption": text}


def test_two_images_of_one_id_are_left_out_with_their_captions_and_counted(folder: Path) -> None:
    said = coco([image(0), image(1), image(2, key=0)], [caption(0, "of which?"), caption(1, "b")])
    found, reasons = read(folder, said)
    assert found == [(10, ["b"])]
    assert reasons == ["its id is that of another image, too: whose captions?"] * 2


def test_an_image_that_is_listed_twice_is_one(folder: Path) -> None:
    assert read(folder, coco([image(0), image(0)], [caption(0)])) == ([(0, ["said"])], [])


@pytest.mark.parametrize("write", [str, int])
def test_ids_are_numbers_or_texts(folder: Path, write: type) -> None:
    said = coco([image(n, key=write(n)) for n in range(2)], [caption(n, f"c{n}") for n in range(2)])
    assert read(folder, said) == ([(0, ["c0"]), (10, ["c1"])], [])


def test_ids_of_other_types_break_nothing_and_none_is_no_id(folder: Path) -> None:
    said = coco(
        [image(0), {"file_name": "1.png"}, "2.png"],
        [caption(0), caption([1]), caption({}), {"caption": "x"}, {"image_id": None, "caption": "y"}, 5],
    )
    found, reasons = read(folder, said)
    assert found == [(0, ["said"])]
    assert len(reasons) == 2 + 5


@pytest.mark.parametrize("order", [("jsonl", "csv"), ("csv", "jsonl")])
def test_metadata_of_both_kinds_in_folders_of_their_own(tmp_path: Path, order: tuple[str, str]) -> None:
    for n, kind in enumerate(order):
        part = tmp_path / f"{n}"
        part.mkdir()
        (part / "x.png").write_bytes(picture(10 * n))
        row = '{"file_name": "x.png", "text": ["a", "b"]}' if kind == "jsonl" else "file_name,text\nx.png,c\n"
        (part / f"metadata.{kind}").write_text(row)
    said = {"jsonl": ["a", "b"], "csv": ["c"]}
    assert pairs(Folder(path=str(tmp_path), **pair(at_most=9))) == [
        (10 * n, said[kind]) for n, kind in enumerate(order)
    ]


def test_metadata_of_both_kinds_in_one_folder_is_refused(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a"}')
    (folder / "metadata.csv").write_text("file_name,text\n0.png,b\n")
    data = Folder(path=str(folder))
    with pytest.raises(ValueError, match=r"has metadata\.jsonl and metadata\.csv: remove or rename one"):
        data.table(data.path)
