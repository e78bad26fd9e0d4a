"""Every member of a tar, or file of a folder, is part of a pair, left out with a reason, or counted beside them."""

import io
import random
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from small_pairs import pair, picture, write

from workbench.data.folder import Folder
from workbench.data.shards import Shards
from workbench.errors import BadSample
from workbench.loading.choosing import PICTURES, choose
from workbench.loading.grouping import Grouping
from workbench.loading.table import Table


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def listed(tmp_path: Path, members: dict[str, bytes], **options: object) -> Table:
    data = Shards(path=str(write(tmp_path / "a.tar", members)), **options)
    return data.table(data.path)


def names(table: Table) -> list[str]:
    return [table.name(i).rpartition(": ")[2] for i in range(len(table))]


def reasons(table: Table) -> dict[str, str]:
    return {s.name.rpartition(": ")[2].split(" (at")[0]: s.reason for s in table.left_out}


def streamed(table_path: Path, **options: object) -> tuple[list[str], dict[str, str]]:
    data = Shards(path=str(table_path), streaming=True, samples=1, **options)
    raws = list(data.read(0))
    good = [raw.name.rpartition(": ")[2] for raw in raws if not isinstance(raw, BadSample)]
    return good, {raw.name.rpartition(": ")[2]: raw.reason for raw in raws if isinstance(raw, BadSample)}


P, T = picture(1), b"a text"


@pytest.mark.parametrize("ending", ["jfif", "JPE", "jp2", "avif", "PNG", "ppm", "tiff"])
def test_pictures_of_every_ending_that_is_decoded_are_pairs(tmp_path: Path, ending: str) -> None:
    assert names(listed(tmp_path, {f"0.{ending}": P, "0.TXT": T})) == [f"0.{ending}"]


@pytest.mark.parametrize(
    ("members", "pairs", "left_out", "beside"),
    [
        ({"0.jpg": P, "0.txt": T, "0.seg.png": P}, ["0.jpg"], {}, {".seg.png": 1}),
        ({"0.depth.png": P, "0.jpg": P, "0.txt": T, "0.json": T}, ["0.jpg"], {}, {".depth.png": 1, ".json": 1}),
        ({"22.05.jpg": P, "22.05.txt": T, "22.06.jpg": P, "22.06.txt": T}, ["22.05.jpg", "22.06.jpg"], {}, {}),
        ({"0.jpg": P, "0.png": P, "0.txt": T}, [], {"0.jpg": "data.fields.image.from=jpg"}, {}),
        ({"0.heic": P, "0.txt": T}, [], {"0.txt": ".heic, which is not read: convert it"}, {".heic": 1}),
        ({"0.img": P, "0.txt": T}, [], {"0.txt": "data.fields.image.from=img"}, {".img": 1}),
        ({"0.jpg": P, "1.txt": T}, [], {"0.jpg": "no .txt", "1.txt": "no picture"}, {}),
        ({"._0.jpg": T, "0.jpg": P, "._0.txt": T, "0.txt": T}, ["0.jpg"], {}, {"hidden files": 2}),
        ({"__MACOSX/0.jpg": T, "0.jpg": P, "0.txt": T, "LICENSE": T}, ["0.jpg"], {},
         {"hidden files": 1, "files without an ending": 1}),
        ({"a.jpg": P, "a.txt": T, "a.v2.jpg": P, "a.v2.txt": T}, ["a.jpg"], {"a.v2.jpg": "first dot"}, {".v2.txt": 1}),
        ({"./0.jpg": P, "./0.txt": T}, ["./0.jpg"], {}, {}),
        ({"x/0.jpg": P, "y/0.txt": T}, [], {"x/0.jpg": "no .txt", "y/0.txt": "no picture"}, {}),
    ],
)  # fmt: skip
def test_what_is_a_pair_and_what_is_not(
    tmp_path: Path, members: dict[str, bytes], pairs: list[str], left_out: dict[str, str], beside: dict[str, int]
) -> None:
    if not pairs:  # one that is, so that there is a table
        members |= {"z.jpg": P, "z.txt": T}
        pairs = ["z.jpg"]
    table = listed(tmp_path, members)
    assert names(table) == pairs
    found = reasons(table)
    assert found.keys() == left_out.keys()
    assert all(said in found[name] for name, said in left_out.items())
    assert dict(table.beside) == beside
    good, bad = streamed(tmp_path / "a.tar")
    assert good == pairs
    assert bad.keys() == left_out.keys()


def raw_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_a_key_that_comes_twice_is_left_out_once_for_each_copy(tmp_path: Path) -> None:
    twice = [("0.jpg", P), ("0.txt", T), ("0.jpg", picture(2)), ("0.txt", b"another"), ("1.jpg", P), ("1.txt", T)]
    tar = raw_tar(tmp_path / "a.tar", twice)
    data = Shards(path=str(tar))
    table = data.table(data.path)
    assert names(table) == ["1.jpg"]
    assert len({s.name for s in table.left_out}) == 2  # they are counted by their names
    assert all("0.jpg" in s.name and "there 2 times" in s.reason for s in table.left_out)
    good, bad = streamed(tar)
    assert (good, len(bad)) == (["1.jpg"], 2)


def test_tars_behind_one_another_are_all_read_and_their_keys_are_their_own(tmp_path: Path) -> None:
    one, two = (write(tmp_path / f"{n}", {"0.png": picture(n), "0.txt": b"number %d" % n}).read_bytes() for n in (3, 4))
    tar = tmp_path / "a.tar"
    tar.write_bytes(one + bytes(3 * 2**20) + two)
    data = Shards(path=str(tar))
    table = data.table(data.path)
    assert [table.cells(i, "text")[0] for i in range(len(table))] == ["number 3", "number 4"]
    assert not table.left_out
    assert streamed(tar)[0] == ["0.png", "0.png"]
    tar.write_bytes(one + b"these are no headers" * 100)
    table = Shards(path=str(tar)).table(str(tar))
    assert [s.reason for s in table.left_out] == ["2000 bytes behind its end are no tar"]
    assert len(table) == 1
    tar.write_bytes(one.rstrip(b"\0") + bytes(-len(one.rstrip(b"\0")) % 512))
    assert "no end mark" in Shards(path=str(tar)).table(str(tar)).left_out[0].reason


def sparse(path: Path) -> None:
    """A tar with a picture that GNU tar has stored as a sparse file: the size says more than is there."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content, kind in (("0.jpg", P, tarfile.GNUTYPE_SPARSE), ("0.txt", T, tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.size, info.type = len(content), kind
            tar.addfile(info, io.BytesIO(content))


def linked(kind: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with tarfile.open(path, "w") as tar:
            for name in ("9.jpg", "0.txt"):
                info = tarfile.TarInfo(name)
                info.size = len(P)
                tar.addfile(info, io.BytesIO(P))
            info = tarfile.TarInfo("0.jpg")
            info.type, info.linkname = kind, "9.jpg"
            tar.addfile(info)

    return make


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (linked(tarfile.SYMTYPE), "is a link"),
        (linked(tarfile.LNKTYPE), "is a link"),
        (linked(tarfile.FIFOTYPE), "is no regular file"),
        (sparse, "sparse"),
    ],
    ids=["symbolic", "hard", "pipe", "sparse"],
)
def test_members_whose_content_is_not_there_are_left_out(
    tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    make(tmp_path / "a.tar")
    write(tmp_path / "b.tar", {"1.jpg": P, "1.txt": T})
    table = Shards(path=f"{tmp_path}/?.tar").table(f"{tmp_path}/?.tar")
    assert names(table) == ["1.jpg"]
    assert said in next(s.reason for s in table.left_out if "0." in s.name)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_whole_and_no_two_are_alike(tmp_path: Path, form: int) -> None:
    stem = "folder/" + "n" * 150
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        for n in range(5):
            for name, content in ((f"{stem}{n}.jpg", b"broken"), (f"{stem}{n}.txt", T), (f"{stem}x{n}.png", P)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    table = Shards(path=f"{tmp_path}/a.tar").table(f"{tmp_path}/a.tar")
    assert names(table) == [f"{stem}{n}.jpg" for n in range(5)]
    assert set(reasons(table)) == {f"{stem}x{n}.png" for n in range(5)}


def test_endings_are_chosen_by_name(tmp_path: Path) -> None:
    members = {"0.img": P, "0.cap": T, "1.jpg": P, "1.png": P, "1.cap": T, "2.png": P, "2.syn.json": b'{"said": "x"}'}
    assert names(listed(tmp_path, members, **pair(image=("img", "png", "jpg"), text="cap"))) == ["0.img", "1.png"]
    table = listed(tmp_path, members, **pair(image=("jpg", "png"), text="syn.json:said"))
    assert [(table.name(0)[-5:], list(table.cells(0, "text")))] == [("2.png", ["x"])]
    usual = Shards(path="0.tar").wanted
    assert [(slot.endings, slot.ordered) for slot in usual.slots] == [(PICTURES, False), (("txt",), True)]
    assert usual.columns == {"image": ((0, None),), "text": ((1, None),)}
    named = Shards(path="0.tar", **pair(image=".jpg", text=".json:caption")).wanted
    assert [(slot.endings, slot.ordered) for slot in named.slots] == [(("jpg",), True), (("json",), True)]
    assert named.columns == {"image": ((0, None),), "text": ((1, "caption"),)}


def test_numbers_of_classes_become_their_names(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "classnames.txt").write_text("a cat\na dog\n", encoding="utf-8")
    members = {"0.jpg": P, "0.cls": b"1", "1.jpg": P, "1.cls": b"0", "2.jpg": P, "2.cls": b"2"}
    path = str(write(tmp_path / "test" / "0.tar", members))
    table = Shards(path=path, **pair(text="cls")).table(path)
    assert [table.cells(i, "text") for i in range(2)] == [["a dog"], ["a cat"]]
    with pytest.raises(ValueError, match="class 2 is none of the 2"):
        table.cells(2, "text")
    (tmp_path / "classnames.txt").rename(tmp_path / "mine.txt")
    with pytest.raises(ValueError, match=r"number of a class \(1\): name a file"):
        Shards(path=path, **pair(text="cls")).table(path).cells(0, "text")
    assert Shards(path=path, **pair(text="cls", classes=tmp_path / "mine.txt")).table(path).cells(1, "text") == [
        "a cat"
    ]
    with pytest.raises(ValueError, match=r"hold no image with a .txt .*3 .cls: .*data.fields.text.from=cls"):
        Shards(path=path).table(path)


def test_a_tar_that_is_none_is_left_out_among_others(tmp_path: Path) -> None:
    for n, content in enumerate((b"", b"<html>gone</html>")):
        (tmp_path / f"{n}.tar").write_bytes(content)
    write(tmp_path / "2.tar", {"0.jpg": P, "0.txt": T})
    table = Shards(path=f"{tmp_path}/*.tar").table(f"{tmp_path}/*.tar")
    assert len(table) == 1
    assert [s.name for s in table.left_out] == [f"{tmp_path}/{n}.tar" for n in range(2)]


def test_a_tar_that_is_not_in_order_says_so_when_it_is_streamed(tmp_path: Path) -> None:
    members = {f"{n}.jpg": P for n in range(3)} | {f"{n}.txt": T for n in range(3)}
    assert len(listed(tmp_path, members)) == 3
    good, bad = streamed(tmp_path / "a.tar")
    assert not good
    assert all("side by side" in reason and "data.streaming=false" in reason for reason in bad.values())


def test_files_beside_one_another_are_grouped_as_members_are(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "00000").mkdir(parents=True)
    (tmp_path / "more").mkdir()
    files = {"00000/0.jpg": P, "00000/0.txt": T, "00000/0.json": b"{}", "1.png": P, "00000/._0.jpg": T, "2.txt": T}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (tmp_path / "more" / "3.png").write_bytes(P)
    (tmp_path / "more" / "3.txt").write_bytes(T)
    (folder / "link").symlink_to(tmp_path / "more")
    (tmp_path / "more" / "up").symlink_to(tmp_path / "more")  # and round again
    table = (data := Folder(path=str(folder))).table(data.path)
    assert [table.name(i) for i in range(len(table))] == [f"{folder}/00000/0.jpg", f"{folder}/link/3.png"]
    assert {s.name: s.reason for s in table.left_out} == {
        f"{folder}/1.png": "no .txt of the same name",
        f"{folder}/2.txt": "no picture of the same name",
    }
    assert dict(table.beside) == {".json": 1, "hidden files": 1}


def test_nothing_vanishes() -> None:
    """Against counting keys one by one: each with a picture or a text is a pair or is left out, each copy once."""
    seed = random.randrange(2**31)
    rng = random.Random(seed)
    for _ in range(200):
        endings = ["jpg", "png", "txt", "json", "img"]
        members = [f"{rng.choice('ab')}/{rng.randrange(4)}.{rng.choice(endings)}" for _ in range(rng.randrange(1, 20))]
        grouping = Grouping()
        for place, name in enumerate(members):
            grouping.add(name, place, 0, 1)
        found = choose(grouping.index(), Shards(path="0.tar").wanted)
        keys: dict[str, Counter[str]] = {}
        for name in members:
            key, _, ending = name.rpartition(".")
            keys.setdefault(key, Counter())[ending] += 1
        there = [Counter({e: n for e, n in c.items() if e in ("jpg", "png", "txt")}) for c in keys.values()]
        things = sum(max(counts.values()) for counts in there if counts)
        pairs = sum(counts["txt"] == 1 and counts["jpg"] + counts["png"] == 1 for counts in there)
        assert len(found.rows) == pairs, (seed, members)
        assert pairs + len(found.left_out) == things, (seed, members)
        assert len(found.reasons) == len(found.left_out)
        others = sum(count[e] for count in keys.values() for e in ("json", "img"))
        assert sum(found.beside[f".{e}"] for e in ("json", "img")) == others, (seed, members)
