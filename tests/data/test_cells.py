"""Cells and headers as other programs write them: what cannot be read says what it is, and the way out is tried."""

import base64
import csv
import io
import os
import struct
import tarfile
import zlib
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_pairs import pair, picture, read_pair, write
from test_lists import pairs

from workbench.data.csv import CSV
from workbench.data.folder import Folder
from workbench.data.parquet import Parquet
from workbench.data.shards import Shards
from workbench.errors import BadSample
from workbench.inspection.open_data import open_data
from workbench.loading import separated
from workbench.loading.cells import read_encoded
from workbench.loading.decode import decode_image
from workbench.loading.members import MemberReader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in range(4):
        (tmp_path / f"{n}.png").write_bytes(picture(10 * n))
    return tmp_path


def written(folder: Path, content: str, encoding: str = "utf-8") -> str:
    (folder / "list.csv").write_bytes(content.encode(encoding))
    return str(folder / "list.csv")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_its_mark_is_called_so(folder: Path, encoding: str) -> None:
    with pytest.raises(ValueError, match=r"list\.csv holds NUL characters, as UTF-16 without its mark does"):
        pairs(CSV(path=written(folder, "filepath,title\n0.png,a\n", encoding)))


@pytest.mark.parametrize("encoding", ["cp1252", "shift_jis", "koi8-r"])
def test_a_caption_in_another_encoding_says_the_byte_and_the_remedy(folder: Path, encoding: str) -> None:
    text = {"cp1252": "café", "shift_jis": "赤い", "koi8-r": "красная"}[encoding]
    data = CSV(path=written(folder, f"filepath,title\n0.png,{text}\n", encoding))
    with pytest.raises(BadSample, match=r"not UTF-8 \(byte 0x[0-9a-f]{2} at \d\): save it as UTF-8"):
        read_pair(data.table(data.path), 0, 10**6)


def test_headers_that_are_none_and_files_that_are_none_are_one_message(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"has 2 columns .title.: rename all but one"):
        pairs(CSV(path=written(folder, "filepath,title,title\n0.png,a,b\n")))
    names = ",".join(f"{n:0199}" for n in range(700))  # one field of 140 KB, by the separators that it lacks
    assert len(pairs(CSV(path=written(folder, f"filepath,title,{names}\n0.png,a{',' * 700}\n")))) == 1
    monkeypatch.setattr(separated, "LONGEST", 1000)
    with pytest.raises(ValueError, match="begins with a line of more than 1,000 letters, which is no header"):
        pairs(CSV(path=written(folder, "x" * 2000)))
    os.mkfifo(folder / "pipe.csv")  # to open it would wait for ever
    with pytest.raises(ValueError, match=r"pipe.csv is a pipe or a device, which cannot be read twice: save what"):
        pairs(CSV(path=str(folder / "pipe.csv")))


def test_a_list_without_a_header_is_called_so(folder: Path) -> None:
    file = written(folder, "0.png,a\n1.png,b\n")
    with pytest.raises(ValueError, match="has no header, but a row in its first line: write filepath,title before it"):
        pairs(CSV(path=file))
    Path(file).write_text("filepath,title\n" + Path(file).read_text())
    assert pairs(CSV(path=file)) == [(0, ["a"]), (10, ["b"])]


@pytest.mark.parametrize("names", [("file_name", "text"), ("image", "caption"), ("image_name", "comment")])
def test_columns_of_usual_names_are_proposed(folder: Path, names: tuple[str, str]) -> None:
    image, caption = names
    said = rf"set data\.fields={{image: {{from: {image}}}, text: {{from: {caption}}}}}"
    file = written(folder, f"{image},{caption}\n0.png,a\n")
    with pytest.raises(ValueError, match=said):
        pairs(CSV(path=file))
    assert pairs(CSV(path=file, **pair(image=image, text=caption))) == [(0, ["a"])]
    parquet = folder / "x.parquet"
    pq.write_table(pa.table({f"{image}": ["0.png"], f"{caption}_": ["a"], caption: ["a"]}), parquet)
    if names == ("image", "caption"):
        return
    with pytest.raises(ValueError, match=said):
        pairs(Parquet(path=str(parquet)))


def test_a_backslash_before_a_quotation_mark_has_a_remedy_that_works(folder: Path) -> None:
    text = 'filepath,title\n0.png,"a \\"good\\" card"\n1.png,b\n'
    data = CSV(path=written(folder, text))
    assert data.table(data.path).left_out[0].reason == 'a backslash stands before a quotation mark: write "" for \\"'
    mended = CSV(path=written(folder, text.replace('\\"', '""')))
    assert pairs(mended) == [(0, ['a "good" card']), (10, ["b"])]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (picture(5).hex() * 3, "but hexadecimal"),
        ("0x" + picture(5).hex() * 3, "but hexadecimal"),
        (repr(picture(5) * 4), "bytes as Python prints them"),
        ("x" * 3000, "no path and no picture in base64"),
        ("a\0b", "no path and no picture in base64"),
    ],
)
def test_what_is_neither_a_path_nor_base64_is_named_and_short(cell: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        read_encoded(cell, ".", "picture")
    assert len(str(error.value)) < 200


def test_short_base64_is_not_a_name(folder: Path) -> None:
    cell = base64.b64encode(b"\x89PNG" + b"x" * 60).decode()
    data = CSV(path=written(folder, f"filepath,title\n{cell},a\n"))
    assert data.table(data.path).name(0).endswith("picture 0, in base64")


def test_addresses_of_files_and_homes_are_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    (folder / "a b.png").write_bytes(picture(70))
    rows = [(f"file://{folder}/1.png", "a"), ("~/2.png", "b"), (f"file://{folder}/a%20b.png", "c"), ("~x.png", "d")]
    (folder / "~x.png").write_bytes(picture(80))
    out = io.StringIO()
    csv.writer(out).writerows([("filepath", "title"), *rows])
    assert pairs(CSV(path=written(folder, out.getvalue()))) == [(10, ["a"]), (20, ["b"]), (70, ["c"]), (80, ["d"])]


def grey_16(levels: list[int], hidden: int) -> bytes:
    """Write a PNG of one row of 16-bit grey levels, of which one is transparent: PNG specification, tRNS."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", len(levels), 1, 16, 0, 0, 0, 0)
    row = b"\0" + struct.pack(f">{len(levels)}H", *levels)
    body = chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", hidden)) + chunk(b"IDAT", zlib.compress(row))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def test_a_transparent_level_of_16_bits_lies_on_white_and_its_neighbour_does_not() -> None:
    image = decode_image(grey_16([30000, 30001, 0], hidden=30000))
    assert [image.getpixel((x, 0)) for x in range(3)] == [(255,) * 3, (117,) * 3, (0,) * 3]


@pytest.mark.parametrize("ending", ["mpo", "pjpeg", "PJP"])
def test_further_endings_of_jpeg(tmp_path: Path, ending: str) -> None:
    out = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(out, "JPEG")
    write(tmp_path / "0.tar", {f"0.{ending}": out.getvalue(), "0.txt": b"red"})
    assert len(Shards(path=str(tmp_path / "0.tar"))) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [("-1", "class -1 is none"), ("2", "class 2 is none"), ("1.0", "red"), ("01", "red"), ("7up", "7up")],
)
def test_numbers_of_classes_however_they_are_written(content: str, said: str) -> None:
    reader = MemberReader(classes=("blue", "red"))
    if said.startswith("class"):
        with pytest.raises(ValueError, match=said):
            reader(content.encode())
    else:
        assert reader(content.encode()) == [said]


@pytest.mark.parametrize("name", ["./0.png", ".//0.png", "././0.png", "sub/./0.png", "./sub/0.png"])
def test_a_picture_has_one_name_however_its_path_is_spelt(folder: Path, name: str) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "0.png").write_bytes(picture(50))
    straight = "sub/0.png" if "sub" in name else "0.png"
    data = CSV(path=written(folder, f"filepath,title\n{straight},a\n{name},b\n"))
    assert [captions for _, captions in pairs(data)] == [["a", "b"]]


def test_a_list_that_begins_with_an_empty_line_is_not_called_empty(folder: Path) -> None:
    with pytest.raises(ValueError, match="begins with an empty line: remove it"):
        pairs(CSV(path=written(folder, "\nfilepath,title\n0.png,a\n")))


def test_a_folder_of_ambiguous_pictures_says_which_is_which(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).write_bytes(picture(1))
    (tmp_path / "a.txt").write_text("said")
    data = Folder(path=str(tmp_path))
    with pytest.raises(ValueError, match=r"the first that is none is .*a\.jpg \(\.jpg, \.png are pictures of one name"):
        data.table(data.path)


def test_captions_named_after_the_whole_file_have_a_remedy_that_works(tmp_path: Path) -> None:
    for n in range(2):
        (tmp_path / f"{n}.png").write_bytes(picture(10 * n))
        (tmp_path / f"{n}.png.txt").write_text(f"t{n}")
    with pytest.raises(ValueError, match=r"use --source folder --set fields\.text\.from=\.png\.txt"):
        open_data(str(tmp_path), None, ())
    _, data = open_data(str(tmp_path), "folder", ("fields.text.from=.png.txt",))
    assert pairs(data) == [(0, ["t0"]), (10, ["t1"])]


@pytest.mark.parametrize(
    ("image", "text", "keys"),
    [
        ("img", "cap", {"image": "img", "text": "cap"}),
        ("webp", "cls", {"text": "cls"}),
        ("jpg", "caption", {"text": "caption"}),
    ],
)
def test_endings_that_nobody_asked_for_are_proposed(
    tmp_path: Path, image: str, text: str, keys: dict[str, str]
) -> None:
    file = str(write(tmp_path / "0.tar", {f"0.{image}": picture(40), f"0.{text}": b"a card"}))
    said = " and ".join(f"data.fields.{key}.from={value}" for key, value in keys.items())
    with pytest.raises(ValueError, match=f"{said} names them"):
        Shards(path=file).table(file)
    _, data = open_data(file, None, tuple(f"fields.{key}.from={value}" for key, value in keys.items()))
    assert pairs(data) == [(40, ["a card"])]


@pytest.mark.parametrize(("zeros", "faults"), [(2**19, 0), (2**20, 0), (2**21, 1)])
def test_a_tar_that_ends_in_megabytes_of_zeros_was_not_fetched_to_its_end(
    tmp_path: Path, zeros: int, faults: int
) -> None:
    file = write(tmp_path / "0.tar", {"0.png": picture(40), "0.txt": b"said"})
    with tarfile.open(file) as archive:
        end = max(member.offset_data + member.size for member in archive)
    sound = file.read_bytes()[: -(-end // 512) * 512]
    file.write_bytes(sound + bytes(zeros))
    table = Shards(path=str(file)).table(str(file))
    assert len(table) == 1
    assert ["bytes are zeros: was it fetched to its end?" in reason for _, reason in table.left_out] == [True] * faults


@pytest.mark.parametrize("split", ["train[5:]", "train[3:]", "train[2:1]"])
def test_a_part_without_a_row_says_how_many_there_are(tmp_path: Path, split: str) -> None:
    datasets.Dataset.from_dict({"image": [picture(1)] * 3, "caption": ["a"] * 3}).save_to_disk(tmp_path / "saved")
    data = open_data(str(tmp_path / "saved"), None, (f"split={split}",))[1]
    with pytest.raises(ValueError, match=r"no row is in this part \(train has 3\)"):
        data.table(data.path)
