"""`wb data inspect`: every kind of source, what is bad in it, and the facts against those that were put there."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result
from json_keys import assert_keys
from PIL import Image

from workbench.cli import cli
from workbench.inspection.report import _cards
from workbench.inspection.tallies import Seen

LONG = " ".join(f"{word} and" for word in "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz")
"""104 words, 106 tokens with the marks of begin and end"""
CAPTIONS = {"a": ["one", "shared"], "b": ["shared", "shared"], "c": [LONG], "d": ["animal $x$", "two $ and $\\frac{"]}


def picture(width: int, height: int, mode: str = "RGB", kind: str = "PNG", **options: Any) -> bytes:
    pixels = np.random.default_rng(width).integers(256, size=(height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


def animation() -> bytes:
    out = io.BytesIO()
    frames = [Image.new("L", (5, 5), level) for level in (1, 200)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


PICTURES = {
    "a": picture(9, 7),
    "b": picture(30, 20, "L", "JPEG"),
    "c": picture(12, 10),
    "d": animation(),
}
BAD = {"cut": picture(50, 40)[:900], "junk": b"junk", "huge": picture(80, 60), "mute": picture(9, 9)}
FACTS = {
    "sizes": [[5, 5], [9, 7], [30, 20]],
    "formats": {"PNG": 2, "JPEG": 1, "GIF": 1},
    "modes": {"RGB": 2, "L": 1, "P": 1},
    "animated": 1,
}


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, ["data", "inspect", *map(str, arguments)])


def found(*arguments: Any) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert_keys("data inspect", printed)
    return printed


def tar(folder: Path) -> Path:
    with tarfile.open(folder / "0.tar", "w") as out:
        for name, content in (PICTURES | BAD).items():
            texts = CAPTIONS.get(name, ["" if name == "mute" else "said"])
            for suffix, member in (("png", content), ("txt", "\n".join(texts).encode())):
                info = tarfile.TarInfo(f"{name}.{suffix}")
                info.size = len(member)
                out.addfile(info, io.BytesIO(member))
        info = tarfile.TarInfo("alone.png")
        out.addfile(info, io.BytesIO(b""))
    return folder


def folder(at: Path) -> Path:
    for name, content in PICTURES.items():
        (at / name).write_bytes(content)
    rows = [{"file_name": name, "text": CAPTIONS[name]} for name in PICTURES]
    (at / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return at


def tsv(at: Path) -> Path:
    folder(at)
    rows = [f"{name}\t{text}" for name in PICTURES for text in CAPTIONS[name]]
    (at / "list.tsv").write_text("\n".join(["filepath\ttitle", *rows]))
    return at / "list.tsv"


def parquet(at: Path) -> Path:
    table = pa.table({"image": list(PICTURES.values()), "caption": [CAPTIONS[name] for name in PICTURES]})
    pq.write_table(table, at / "0.parquet")
    return at


def saved(at: Path) -> Path:
    import datasets

    columns = {"image": list(PICTURES.values()), "caption": [CAPTIONS[name] for name in PICTURES]}
    datasets.Dataset.from_dict(columns).save_to_disk(at / "saved")
    return at / "saved"


@pytest.mark.parametrize(
    ("make", "source"),
    [(folder, "folder"), (tsv, "csv"), (parquet, "parquet"), (saved, "hf")],
    ids=["folder", "tsv", "parquet", "saved"],
)
def test_every_source_is_told_by_what_lies_there(make: Callable[[Path], Path], source: str, tmp_path: Path) -> None:
    facts = found(make(tmp_path))
    assert facts["source"] == source
    assert (facts["pairs"], facts["usable"]) == (4, 4)
    assert {key: facts["images"][key] for key in FACTS} == FACTS
    assert facts["captions"]["histogram"] == {"1": 1, "2": 3}


def test_the_facts_of_tars_and_what_is_bad(tmp_path: Path) -> None:
    facts = found(tar(tmp_path), "--set", "fields.image.max_pixels=1000", "--bad", tmp_path / "new" / "bad.jsonl")
    assert (facts["source"], facts["pairs"], facts["files"], facts["usable"]) == ("shards", 8, 1, 4)
    assert {key: facts["images"][key] for key in FACTS} == FACTS
    captions = facts["captions"]
    assert captions["number"] == 7
    assert captions["per_image"] == [1, 2, 2]
    assert captions["tokens"][::2] == [3, 106]
    assert captions["cut"] == pytest.approx(1 / 7)
    assert captions["shared"] == pytest.approx(2 / 6)  # of a and of b, where it stands twice
    assert facts["images_per_second"] > 1
    bad = [json.loads(line) for line in (tmp_path / "new" / "bad.jsonl").read_text().splitlines()]
    assert facts["bad"] == {"number": 5, "first": bad}
    reasons = {sample["name"].split(": ")[1]: sample["reason"] for sample in bad}
    assert set(reasons) == {"alone.png", "cut.png", "junk.png", "huge.png", "mute.png"}
    assert reasons["huge.png"] == "80 x 60 pixels are more than max_pixels=1000"
    assert reasons["alone.png"] == "no .txt of the same name"
    assert reasons["mute.png"] == "no caption"


@pytest.mark.slow
def test_people_get_a_table_and_a_sheet(tmp_path: Path) -> None:
    result = run(tar(tmp_path) / "*.tar", "--sheet", tmp_path / "sheet.png")
    assert result.exit_code == 0, result.output
    for line in ("8 in 1 files", "5 x 5 to 80 x 60", "12.50% are cut at 77", "alone.png"):
        assert line in result.stdout
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 300
        colours = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 500  # the noise of the pictures is on it


def test_a_limit_takes_the_same_random_ones(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as out:
        for n in range(40):
            for suffix, member in (("png", picture(n + 1, 1)), ("txt", b"a")):
                info = tarfile.TarInfo(f"{n}.{suffix}")
                info.size = len(member)
                out.addfile(info, io.BytesIO(member))
    once, again = (found(tmp_path, "--limit", 5) for _ in range(2))
    assert once["images"] == again["images"]
    assert (once["pairs"], once["inspected"]) == (40, 5)
    assert once["images"]["sizes"][2][0] - once["images"]["sizes"][0][0] > 4  # not the first ones, nor neighbours


@pytest.mark.slow
def test_the_packaged_emoji_and_recipes() -> None:
    facts = found("emoji_ito.yaml", "--limit", 20)
    assert facts["source"] == "emoji"
    assert facts["images"]["sizes"] == [[64, 64]] * 3
    assert facts["captions"]["context"] == 16  # what its own tower reads
    assert found("emoji", "--limit", 20)["captions"] == facts["captions"] | {"context": 77}


def test_mistakes_are_one_message(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b.txt").touch()
    for arguments, status, said in (
        ([tmp_path / "a"], 1, "has no metadata.jsonl and no .tar"),
        ([tmp_path / "c"], 1, "is not there"),
        ([tmp_path / "b.txt"], 1, "cannot be told from its name"),
        ([f"{tmp_path}/*.tar"], 1, "no tar matches"),
        (["synth/clip.yaml"], 1, "only images with texts"),
        ([tmp_path, "--source", "shard"], 2, "did you mean 'shards'?"),
        ([tmp_path, "--source", "shards", "--set", "max_baad=1"], 2, "did you mean 'max_bad'?"),
        (["emoji", "--sheet", "a.txt"], 2, "draws .png"),
        (["emoji.yaml"], 2, "no such recipe"),
    ):
        result = run("--bad", tmp_path / "new" / "bad.jsonl", *arguments)
        assert result.exit_code == status, (arguments, result.output)
        assert not (tmp_path / "new").exists()
        assert said in result.stderr, (arguments, result.stderr)
        assert "Traceback" not in result.stderr
        assert not result.stdout


def test_a_split_without_samples_is_one_message(tmp_path: Path) -> None:
    import datasets

    whole = datasets.Dataset.from_dict({"image": [PICTURES["a"]], "caption": [CAPTIONS["a"]]})
    none = whole.filter(lambda row: False)
    datasets.DatasetDict({"train": none, "test": whole}).save_to_disk(tmp_path / "saved")
    result = run(
        tmp_path / "saved", "--sheet", tmp_path / "new" / "sheet.png", "--bad", tmp_path / "other" / "bad.jsonl"
    )
    assert result.exit_code == 1
    assert "saved (hf) has no sample: take another split with --set split=NAME" in result.stderr
    assert "Traceback" not in result.stderr
    assert not result.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["saved"]
    assert found(tmp_path / "saved", "--set", "split=test")["usable"] == 1


def test_nothing_usable_is_a_failure_that_still_reports(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"junk")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}')
    result = run(tmp_path, "--json", "--sheet", tmp_path / "sheet.png")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["bad"]["number"] == 1
    assert "holds no usable pair; the first is" in result.stderr
    assert not (tmp_path / "sheet.png").exists()


def split_folders(at: Path, make: Callable[[Path], Path]) -> Path:
    for name in ("train", "validation", "test"):
        (at / name).mkdir(parents=True)
        make(at / name)
    return at


@pytest.mark.parametrize("make", [folder, tar, parquet], ids=["folder", "tar", "parquet"])
def test_splits_below_one_folder_are_told_apart(make: Callable[[Path], Path], tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    alone = make(tmp_path / "alone")
    result = run(split_folders(tmp_path / "all", make), "--json")
    facts = json.loads(result.stdout)
    assert facts["pairs"] == found(alone)["pairs"]
    assert "this is train, and not part of it are" in result.stderr
    assert "validation" in result.stderr


def test_a_glob_of_several_splits_is_looked_at_and_said(tmp_path: Path) -> None:
    split_folders(tmp_path, parquet)
    result = run(tmp_path / "*" / "*.parquet", "--json")
    assert json.loads(result.stdout)["pairs"] == 12
    assert "mixes splits" in result.stderr


def test_layouts_that_people_have_are_told(tmp_path: Path) -> None:
    for n in range(2):
        (tmp_path / "files" / "00000").mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / "00000" / f"{n}.jpg").write_bytes(PICTURES["a"])
        (tmp_path / "files" / "00000" / f"{n}.txt").write_text("said")
        (tmp_path / "classes" / f"class {n}").mkdir(parents=True)
        (tmp_path / "classes" / f"class {n}" / "0.jpg").write_bytes(PICTURES["a"])
    log = pa.table({"url": ["a"], "key": ["0"], "status": ["success"]})
    pq.write_table(log, tmp_path / "files" / "00000.parquet")  # img2dataset's
    facts = found(tmp_path / "files")
    assert (facts["source"], facts["pairs"]) == ("folder", 2)
    assert facts["beside"] == {".parquet": 1}
    assert "img2dataset's log" in run(tmp_path / "files" / "00000.parquet").stderr
    said = run(tmp_path / "classes").stderr
    assert "its pictures lie in 2 folders (class 0, class 1, ...)" in said
    assert "--source hf --set fields.text.from=label" in said
    rows = [{"image": f"files/00000/{n}.jpg", "caption": "said"} for n in range(2)]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    assert found(tmp_path / "list.json")["pairs"] == 2


def test_turned_pictures_and_what_lies_beside_are_counted(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(picture(30, 20, kind="JPEG", exif=exif))
    (tmp_path / "a.txt").write_text("said")
    (tmp_path / "a.npy").touch()
    (tmp_path / "._a.jpg").touch()
    facts = found(tmp_path)
    assert facts["images"]["sizes"] == [[20, 30]] * 3
    assert facts["images"]["turned"] == 1
    assert facts["beside"] == {".npy": 1, "hidden files": 1}
    assert "1 .npy" in run(tmp_path).stdout


def test_a_name_that_is_no_utf_8_can_be_printed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as out:
        members = {"bad\udcff.jpg": b"junk", "bad\udcff.txt": b"a", "1.png": PICTURES["a"], "1.txt": b"a"}
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    for options in ([], ["--json"], ["--bad", tmp_path / "bad.jsonl"]):
        result = run(tmp_path / "0.tar", *options)
        assert result.exit_code == 0, result.output
        assert "not a picture" in result.stdout


def test_a_sheet_shows_every_kind() -> None:
    image, sound = Image.new("RGB", (900, 50)), (torch.zeros(4_000), 16_000)
    items = {"image": [image], "text": ["a", "b"], "speech": [sound], "sensor": [torch.zeros(3)], "face": []}
    cards = _cards(Seen(image, ["a", "b"], 0, items | {"frames": [torch.zeros(5, 2)]}))
    assert [(about, captions) for _, about, captions in cards] == [
        ("image, 900 x 50, 2 captions", ["a", "b"]),
        ("speech, 0.25 s at 16,000 Hz", []),
        ("sensor, 3 numbers", []),
        ("frames, 5 x 2", []),
    ]
    assert [about for _, about, _ in _cards(Seen(image, ["a"], 0, {"image": [image], "text": ["a"]}))] == ["400 x 22"]
    assert _cards(Seen(None, ["a"], 0, {"text": ["a"], "image": []})) == [("a", "text", ["a"])]


def test_fields_are_counted_with_what_is_together_and_what_is_bad(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": f"t{n}", "x": [n, 1], "y": [[n]]} for n in range(9)]
    rows[1]["x"], rows[2]["y"], rows[3]["text"] = None, None, " "
    rows[4]["x"], rows[5] = [1, 2, 3], {"text": "alone"}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = "fields={text: {from: text}, x: {kind: vector}, y: {kind: sequence}}"
    facts = found(tmp_path / "a.jsonl", "--set", said)
    assert facts["fields"] == {"text": 6, "x": 6, "y": 6}
    assert facts["combinations"] == {"text+x+y": 4, "text+y": 1, "text+x": 1, "x+y": 1}
    reasons = [bad["reason"] for bad in facts["bad"]["first"]]
    assert reasons == [
        "x: a vector of 3 numbers, where others have 2: pad or cut it",
        "has only its text, of text, x, y: a sample has two at least",
    ]


def test_fields_that_are_no_pictures_are_spoken_of_as_samples(tmp_path: Path) -> None:
    rows = [{"x": [n, 1], "de": "ein Satz", "y": [n] if n % 2 else None} for n in range(6)]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = "fields={x: {kind: vector}, y: {kind: vector}, de: {kind: text}}"
    result = run(str(tmp_path / "list.jsonl"), "--set", said)
    words = " ".join(result.stdout.split())
    for line in (
        "samples 6 in 1 files",
        "fields x 6, y 3, de 6",
        "together",
        "texts 6, a sample has 1 ",
        "shared 100.00% of the texts are those of another sample, too: a loss takes such samples for each other's",
        "samples a second read and decoded",
    ):
        assert line in words, line
    assert "image" not in words
    (tmp_path / "list.jsonl").write_text('{"x": "soon", "de": "a", "y": [1]}')
    result = run(str(tmp_path / "list.jsonl"), "--set", said)
    assert result.exit_code == 1
    assert "holds no usable sample; the first is" in result.stderr
