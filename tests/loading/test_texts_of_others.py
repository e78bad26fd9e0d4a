"""Texts as other programs write them: lists in a cell, old line ends, alphabets that are switched by escapes."""

import json
from pathlib import Path

import pytest

from workbench.loading.captions import clean, parse_lines, unlist
from workbench.loading.grouping import Grouping
from workbench.loading.json_lists import Row, read_lines
from workbench.loading.paths import is_hidden
from workbench.loading.paths import walk as walk_folder


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
def test_any_line_end_of_an_editor_ends_a_caption(end: str) -> None:
    text = end.join(["a red card", "a card", ""])
    assert clean(parse_lines(text.encode())) == ["a red card", "a card"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[ "a card" , "red" ]', ["a card", "red"]),
        ("['a card','red']", ["a card", "red"]),
        ("['a card',  'red',]", ["a card", "red"]),
        ('["a card", null]', ["a card"]),
        ("['a card', None]", ["a card"]),
        ("[None, 'a card']", ["a card"]),
        ("('a card', 'red')", ["a card", "red"]),
        ("{'red', 'a card'}", ["a card", "red"]),
        ("[]", []),
        ("[ ]", []),
        ('["a \\"card\\""]', ['a "card"']),
        ("(a card)", ["(a card)"]),
        ('("a card")', ['("a card")']),
        ("{a card}", ["{a card}"]),
        ("[a card]", ["[a card]"]),
        ('["Stop" sign]', ['["Stop" sign]']),
        ("()", ["()"]),
        ("{}", ["{}"]),
        ("[", ["["]),
    ],
)
def test_a_list_in_one_text_is_read_however_it_is_spelt(text: str, expected: list[str]) -> None:
    assert unlist(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("['a card', nan]", "looks like a list"),
        ("[nan, 'a card']", "looks like a list"),
        ("['a card' 'red']", "looks like a list"),
        ('["a card", "re', "looks like a list"),
        ("[101, 2057, 102]", "holds int"),
        ('[["a"], ["b"]]', "holds list"),
        ('[{"raw": "a"}, {"raw": "b"}]', "holds dict"),
        ('{"raw": "a"}', "block of JSON"),
        ("{'raw': 'a'}", "block of JSON"),
    ],
)
def test_a_structure_that_holds_no_texts_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        unlist(text)


def test_japanese_that_is_spelt_by_escapes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'\\x1b', as ISO-2022-JP does"):
        clean(parse_lines("赤いカード".encode("iso2022_jp")))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_json_lines_in_any_encoding_with_a_mark(encoding: str, end: str) -> None:
    rows = [{"file_name": f"{i}.jpg", "text": f"café\u2028{i}"} for i in range(3)]
    content = "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode(encoding)
    assert [row.fields for row in read_lines("x.jsonl", content) if isinstance(row, Row)] == rows


def test_json_lines_that_belie_their_mark_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"x\.jsonl: not utf-16-le, as its mark says"):
        list(read_lines("x.jsonl", b"\xff\xfe{\0}\0\n"))


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("0.jpg", False),
        ("./0.jpg", False),
        ("../a/0.jpg", False),
        ("v1.0/0.jpg", False),
        ("._0.jpg", True),
        ("a/.DS_Store", True),
        ("__MACOSX/0.jpg", True),
        (".AppleDouble/0.jpg", True),
        ("./a/.ipynb_checkpoints/0-checkpoint.jpg", True),
        ("@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg", True),
        ("a/~$list.csv", True),
    ],
)
def test_a_folder_hides_what_is_in_it(name: str, hidden: bool) -> None:
    assert is_hidden(name) is hidden


def test_files_in_hidden_folders_are_counted_beside_and_never_read(tmp_path: Path) -> None:
    for name in ("0.jpg", ".ipynb_checkpoints/0.jpg", "__MACOSX/._0.jpg", "a/.git/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [file.name for file in walk_folder(tmp_path)] == ["0.jpg"]
    grouping = Grouping()
    for file in walk_folder(tmp_path, hidden=True):
        grouping.add(str(file.relative_to(tmp_path)), 0, 0, 0)
    assert grouping.index().beside == {"hidden files": 3}
