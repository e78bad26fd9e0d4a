"""What is there by its very name is taken; braces as webdataset's users write them; splits told apart by names."""

import os
from pathlib import Path

import pytest

from workbench.loading.paths import braces, by_split, expand, is_hidden, mixed, read_bytes, walk


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{3..0}", ["3", "2", "1", "0"]),
        ("{0..10..5}", ["0", "5", "10"]),
        ("{10..0..5}", ["10", "5", "0"]),
        ("{a..c}", ["a", "b", "c"]),
        ("{c..a..2}", ["c", "a"]),
        ("{a,b{1,2}}", ["a", "b1", "b2"]),
        ("{{0..1},{7,8}}.tar", ["0.tar", "1.tar", "7.tar", "8.tar"]),
        ("{000..002}", ["000", "001", "002"]),
        ("{1..010..9}", ["001", "010"]),
        ("{-1..1}", ["-1", "0", "1"]),
        ("{a,}x", ["ax", "x"]),
        ("{a}", ["{a}"]),
        ("{}", ["{}"]),
        ("x{", ["x{"]),
        ("}{a,b}", ["}a", "}b"]),
        ("{0..1}-{a,b}", ["0-a", "0-b", "1-a", "1-b"]),
    ],
)
def test_braces_are_those_of_shells(pattern: str, expected: list[str]) -> None:
    """The right side is what bash prints."""
    assert braces(pattern) == expected


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["{0..99999999999}", "{0..999}{0..999}{0..999}", "{a,b}" * 40])
def test_too_many_names_are_an_error_and_fill_no_memory(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"more than 1,000,000 names"):
        braces(pattern)


@pytest.mark.parametrize("folder", ["cards [v1]", "cards {a,b}", "cards*", "what?", "[", "{", "a{0..2}b"])
def test_brackets_and_braces_in_names_are_names_where_they_are_there(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    for name in ("0.tar", "1.tar", "x [1].tar", "{1,2}.tar"):
        (tmp_path / folder / name).touch()
    for name in ("0.tar", "x [1].tar", "{1,2}.tar"):
        assert expand(f"{tmp_path}/{folder}/{name}") == ([f"{tmp_path}/{folder}/{name}"], [])
    assert expand(f"{tmp_path}/{folder}/?.tar")[0] == [f"{tmp_path}/{folder}/{n}.tar" for n in range(2)]
    found, absent = expand(f"{tmp_path}/{folder}/{{0..2}}.tar")
    assert (len(found), absent) == (2, [f"{tmp_path}/{folder}/2.tar"])


@pytest.mark.parametrize("pattern", ["~nobody-of-this-name/x", "a\0b", "x" * 5000, "", "**/**", "[[[", "{{{,"])
def test_odd_patterns_match_nothing_and_break_nothing(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(Path(name).exists() for name in expand(pattern)[0])


def test_a_folder_is_walked_through_links_and_not_round_in_circles(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    for name in (".hidden", "._b.txt", ".DS_Store"):
        (tmp_path / name).touch()
    assert [file.name for file in walk(tmp_path)] == ["b.txt"]
    assert len(list(walk(tmp_path, hidden=True))) == 4
    assert [is_hidden(name) for name in ("._a", "x/._a", "__MACOSX/a", "./a", "../a", "a.b")] == [True] * 3 + [
        False
    ] * 3


def test_splits_are_told_by_names_below_the_folder_that_all_share() -> None:
    files = [
        "/test/d/train-0.tar",
        "/test/d/val-0.tar",
        "/test/d/dev.tar",
        "/test/d/restrained.tar",
        "/test/d/TEST.tar",
    ]
    assert by_split(files) == {
        "train": files[:1],
        "validation": files[1:3],
        "": files[3:4],
        "test": files[4:],
    }
    assert by_split(["/d/train2017/x", "/d/val2017/x"]).keys() == {"train", "validation"}
    assert by_split(["/train/a.tar", "/train/b.tar"]).keys() == {""}


def test_a_glob_that_mixes_splits_is_told_and_a_list_of_them_is_not(tmp_path: Path) -> None:
    for name in ("train-0.tar", "train-1.tar", "test-0.tar"):
        (tmp_path / name).touch()
    assert "mixes splits" in (mixed(f"{tmp_path}/*.tar") or "")
    assert mixed((f"{tmp_path}/train-*.tar", f"{tmp_path}/test-*.tar")) is None
    assert mixed(f"{tmp_path}/train-*.tar") is None


def test_a_pipe_in_the_place_of_a_picture_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0.jpg")
    with pytest.raises(OSError):
        read_bytes(tmp_path / "0.jpg", 0, 10)
