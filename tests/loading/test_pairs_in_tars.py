"""Tars: listed once, remembered, damaged ones used up to the damage, names that would escape are labels only."""

import gzip
import io
import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from small_pairs import pair, picture, write

from workbench.data.shards import Shards
from workbench.errors import BadSample, DataLost
from workbench.loading import tar_index
from workbench.loading.grouping import AT, OFFSET


def pairs(*numbers: int) -> dict[str, bytes]:
    return {
        name: content
        for n in numbers
        for name, content in ((f"{n:04}.png", picture(n)), (f"{n:04}.txt", f"number {n}".encode()))
    }


def levels(data: Shards) -> list[int]:
    found = []
    for i in range(len(data)):
        sample = data.sample(i, np.random.default_rng(0))
        level = sample.inputs["image"][0].getpixel((0, 0))[0]
        assert sample.inputs["text"] == [f"number {level}"]
        found.append(level)
    return found


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_tarfile_finds(tmp_path: Path, form: int) -> None:
    rng = np.random.default_rng()
    names = ["a.jpg", "ü/b.txt", "d" * 90 + "/" + "n" * 60 + ".png", "x" * 40 + ".json"]
    names += [] if form == tarfile.USTAR_FORMAT else ["y" * 300 + ".png", "z.txt"]
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=form) as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = int(rng.choice([0, 1, 511, 512, 513, 3000]))
            tar.addfile(info, io.BytesIO(rng.bytes(info.size)))
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isfile()]
    found = list(tar_index.members(path))
    assert [member[:3] for member in found] == expected
    with tarfile.open(path) as tar:  # the header of each, with all that belongs to a long name, begins where it says
        assert [tar_index.read_header(tar, member.at).name for member in found] == names
    assert len(expected) == len(names)


def test_a_tar_is_listed_once_and_again_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = write(tmp_path / "a.tar", pairs(1, 2))
    listed: list[Path] = []
    real = tar_index.list_members
    monkeypatch.setattr(tar_index, "list_members", lambda path: listed.append(path) or real(path))
    assert levels(Shards(path=str(tar))) == levels(Shards(path=str(tar))) == [1, 2]
    assert listed == [tar]
    write(tar, pairs(3, 4))  # the same size
    os.utime(tar, ns=(time.time_ns(), time.time_ns() + 5))
    assert levels(Shards(path=str(tar))) == [3, 4]
    write(tar, pairs(3, 4, 5))
    assert levels(Shards(path=str(tar))) == [3, 4, 5]
    assert len(listed) == 3
    (tmp_path / "a.tar.index.npy").write_bytes(b"damaged")
    assert levels(Shards(path=str(tar))) == [3, 4, 5]
    assert len(listed) == 4


def test_where_the_folder_cannot_be_written_the_index_goes_to_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = write(tmp_path / "a.tar", pairs(1, 2))
    save = tar_index._save
    monkeypatch.setattr(tar_index, "_save", lambda file, *more: file.parent != tmp_path and save(file, *more))
    assert levels(Shards(path=str(tar))) == [1, 2]
    assert not list(tmp_path.glob("*.npy"))
    (kept,) = cache.rglob("*.npy")
    before = kept.stat().st_mtime_ns
    monkeypatch.setattr(tar_index, "list_members", None)  # a second listing would fail
    assert levels(Shards(path=str(tar))) == [1, 2]
    assert kept.stat().st_mtime_ns == before


def test_an_index_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = write(tmp_path / "a.tar", pairs(1, 2))
    (tmp_path / "a.tar.index.npy").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert levels(Shards(path=str(tar))) == [1, 2]


def test_names_that_would_escape_are_labels(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    secret = tmp_path / "secret.txt"
    secret.write_text("not yours")
    tar = write(
        folder / "a.tar",
        {
            "../secret.png": picture(1),
            "../secret.txt": b"number 1",
            f"{tmp_path}/absolute.png": picture(2),
            f"{tmp_path}/absolute.txt": b"number 2",
        },
    )
    with tarfile.open(tar, "a") as archive:  # a link out of the tar is no caption
        image, link = tarfile.TarInfo("link.png"), tarfile.TarInfo("link.txt")
        image.size = len(picture(3))
        archive.addfile(image, io.BytesIO(picture(3)))
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
    data = Shards(path=str(tar))
    assert levels(data) == [1, 2]
    assert data.skipped[0].name == f"{tar}: link.png"
    assert secret.read_text() == "not yours"
    assert {p.name for p in tmp_path.rglob("*")} == {"data", "a.tar", "a.tar.index.npy", "secret.txt"}


def test_images_without_captions_are_counted_with_their_names(tmp_path: Path) -> None:
    tar = write(tmp_path / "a.tar", pairs(1, 2) | {"lonely.jpg": picture(3), "text.txt": b"no image"})
    data = Shards(path=str(tar))
    assert len(data) == 2
    assert data.skipped == [
        (f"{tar}: lonely.jpg", "no .txt of the same name"),
        (f"{tar}: text.txt", "no picture of the same name"),
    ]
    many = pairs(1) | {f"{i}.png": picture(i) for i in range(50, 70)}
    with pytest.raises(ValueError, match=r"20 bad samples among 21 .*a.tar: 50.png \(no .txt of the same name\)"):
        len(Shards(path=str(write(tar, many))))


def test_a_cut_tar_is_used_up_to_the_cut(tmp_path: Path) -> None:
    tar = write(tmp_path / "a.tar", pairs(1, 2, 3))
    whole = tar.read_bytes()
    picture, text = tar_index.list_members(tar).rows[4:, OFFSET].tolist()
    tar.write_bytes(whole[: picture + 9])  # inside the third picture
    data = Shards(path=str(tar))
    assert levels(data) == [1, 2]
    assert data.skipped == [(str(tar), "the tar is damaged or cut off; what lies before is used")]
    again = Shards(path=str(tar))
    assert len(again) == 2
    assert again.skipped == data.skipped  # remembered with the index
    tar.write_bytes(whole)
    os.truncate(tar, text + 3)  # inside the caption: the picture alone is no pair
    assert levels(Shards(path=str(tar))) == [1, 2]


def test_a_damaged_header_does_not_pass_for_the_end(tmp_path: Path) -> None:
    tar = write(tmp_path / "a.tar", pairs(1, 2, 3))
    content = bytearray(tar.read_bytes())
    third = tar_index.list_members(tar).rows[4, AT]
    content[third : third + 8] = b"garbage!"
    tar.write_bytes(content)
    data = Shards(path=str(tar))
    assert levels(data) == [1, 2]
    assert "damaged" in data.skipped[0].reason


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.CONTTYPE])  # read here, and by tarfile
def test_a_negative_size_does_not_lead_in_circles(tmp_path: Path, kind: bytes) -> None:
    tar = write(tmp_path / "a.tar", pairs(1, 2, 3))
    content = bytearray(tar.read_bytes())
    third = int(tar_index.list_members(tar).rows[4, AT])
    header = content[third : third + tar_index.BLOCK]
    header[124:136] = b"-0000002000\0"
    header[156:157] = kind
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    content[third : third + tar_index.BLOCK] = header
    tar.write_bytes(content)
    data = Shards(path=str(tar))
    assert levels(data) == [1, 2]
    assert "damaged" in data.skipped[0].reason


def test_a_tar_cut_after_it_was_listed_has_lost_data_and_no_bad_sample(tmp_path: Path) -> None:
    tar = write(tmp_path / "a.tar", pairs(1, 2))
    data = Shards(path=str(tar))
    assert len(data) == 2
    os.truncate(tar, int(tar_index.list_members(tar).rows[2, OFFSET]) + 20)
    with pytest.raises(DataLost, match=r"a.tar has become shorter"):
        data.sample(1, np.random.default_rng(0))
    tar.unlink()
    with pytest.raises(DataLost, match=r"a.tar was listed, .*No such file"):
        data.sample(0, np.random.default_rng(0))


def test_compressed_tars_are_refused(tmp_path: Path) -> None:
    tar = write(tmp_path / "plain.tar", pairs(1))
    (tmp_path / "a.tar").write_bytes(gzip.compress(tar.read_bytes()))
    with pytest.raises(ValueError, match=r"a.tar is not a readable tar: .*unpack it where it is compressed"):
        len(Shards(path=f"{tmp_path}/a.tar"))


def test_captions_from_json(tmp_path: Path) -> None:
    says = {1: '"number 1"', 2: '["number 2", "zwei"]', 3: "5", 4: None}
    members: dict[str, bytes] = {}
    for n, caption in says.items():
        members[f"{n}.jpg"] = picture(n)
        members[f"{n}.json"] = b'{"x": 1}' if caption is None else f'{{"captions": {caption}}}'.encode()
    tar = write(tmp_path / "a.tar", members)
    data = Shards(path=str(tar), **pair(text="json:captions", at_most=2, pick="first"))
    texts = [data.sample(i, np.random.default_rng(0)).inputs["text"] for i in range(2)]
    assert texts == [["number 1"], ["number 2", "zwei"]]
    with pytest.raises(BadSample, match=r"3.jpg: no caption"):
        data.sample(2, np.random.default_rng(0))
    with pytest.raises(BadSample, match=r"4.jpg: its .json has no 'captions' \(it has: x\)"):
        data.sample(3, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"hold no image with a .txt of the same name"):
        len(Shards(path=str(tar)))


def test_lists_and_braces_keep_their_order_and_name_what_is_not_there(tmp_path: Path) -> None:
    for n in (0, 1, 2):
        write(tmp_path / f"{n:02}.tar", pairs(10 * n + 1, 10 * n + 2))
    assert levels(Shards(path=(f"{tmp_path}/02.tar", f"{tmp_path}/{{00..01}}.tar"))) == [21, 22, 1, 2, 11, 12]
    data = Shards(path=f"{tmp_path}/{{00..05}}.tar", samples=7)
    assert "3 of the tars of" in (data.missing() or "")
    assert f"the first is {tmp_path}/03.tar" in (data.missing() or "")
    with pytest.raises(ValueError, match="3 of the tars of"):
        data.sample(0, np.random.default_rng(0))
