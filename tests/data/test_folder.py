"""A folder with metadata.jsonl: nested ones, one or many captions, broken lines counted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_pairs import pair

from workbench.data.folder import Folder


def write(folder: Path, *rows: Any) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return folder


@pytest.fixture
def pictures(tmp_path: Path, picture: Any) -> Path:
    for n in range(1, 6):
        file = tmp_path / "data" / ("left" if n < 3 else "right") / f"{n}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(n))
    return tmp_path / "data"


def test_one_or_many_captions(pictures: Path, look: Any) -> None:
    write(
        pictures,
        {"file_name": "left/1.png", "text": "one"},
        {"file_name": "right/4.png", "text": ["four", "vier", None, ""], "also": "quatre"},
        {"file_name": "left/1.png", "text": "another"},
    )
    data = Folder(path=pictures, **pair(at_most=9, pick="first"))
    assert [look(data, i) for i in range(len(data))] == [(1, ["one", "another"]), (4, ["four", "vier"])]
    data = Folder(path=pictures, **pair(at_most=9, pick="first", text=("text", "also")))
    assert look(data, 1) == (4, ["four", "vier", "quatre"])


def test_paths_start_from_their_own_metadata(pictures: Path, look: Any, batches: Any) -> None:
    write(pictures / "right", {"file_name": "3.png", "text": "three"}, {"file_name": "5.png", "text": "five"})
    write(pictures / "left", {"file_name": "./1.png", "text": "one"})
    data = Folder(path=pictures)
    assert sorted(look(data, i) for i in range(3)) == [(1, ["one"]), (3, ["three"]), (5, ["five"])]
    assert sorted(batches(data, 1, batch=3, workers=1)[0].inputs["image"].flatten().tolist()) == [1, 3, 5]


def test_bad_lines_and_pictures_are_named(pictures: Path, batches: Any) -> None:
    write(
        pictures,
        {"file_name": "left/1.png", "text": "one"},
        {"file_name": "left/2.png", "text": "two"},
        '{"file_name": "left/2.png", ',
        {"text": "no picture"},
        ["a list"],
        {"file_name": "right/3.png"},
        {"file_name": "right/none.png", "text": "not there"},
    )
    data = Folder(path=pictures)
    assert len(data) == 4
    file = pictures / "metadata.jsonl"
    assert [s.name for s in data.skipped] == [f"{file}: line {n}" for n in (3, 5, 4)]
    reasons = ("no JSON: ", "no row: ", "names no picture: 'file_name' is None")
    assert all(s.reason.startswith(reason) for s, reason in zip(data.skipped, reasons, strict=True))
    found = {s.name: s.reason for batch in batches(data, 8) for s in batch.skipped}
    assert {Path(name).name for name in found} == {"3.png", "none.png"}
    assert "no caption" in found.values()


def test_mistakes_are_one_clear_message(pictures: Path) -> None:
    with pytest.raises(ValueError, match=r"has no metadata.jsonl: write one"):
        len(Folder(path=pictures))
    write(pictures, {"file_name": "left/1.png", "caption": "one"})
    with pytest.raises(ValueError, match=r"no column 'text'.*known: file_name, caption"):
        len(Folder(path=pictures))
    data = Folder(path=pictures / "none", samples=5)
    assert len(data) == 5
    assert "no folder" in (data.missing() or "")
    with pytest.raises(ValueError, match=r"no folder"):
        data.sample(0, np.random.default_rng(0))


def test_the_held_out_folder_is_the_validation_split(pictures: Path) -> None:
    write(pictures / "left", {"file_name": "1.png", "text": "one"})
    write(pictures / "right", {"file_name": "3.png", "text": ["three", "drei"]}, {"file_name": "4.png", "text": "four"})
    split = Folder(path=pictures / "left", validation=pictures / "right").split("validation")
    assert [image.getpixel((0, 0))[0] for image in split.items["image"].raw] == [3, 4]
    assert split.items["text"].ids.tolist() == [0, 0, 1]
