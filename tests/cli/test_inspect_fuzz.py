"""`wb data inspect` on random small folders: a report or one message, never a traceback, never a wait without end.

`just fuzz` runs it for long. A failure shows the seed of its folder, which WB_FUZZ_SEED draws again, as the first one.
"""

import io
import json
import random
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from fuzzing import LONG, SECONDS, Hang, fresh_seed, limit
from small_pairs import picture, write

from workbench.cli import cli

FOLDERS = 500
"""at most, unless WB_FUZZ asks for long"""
WORDS = [
    "a",
    "0",
    "train",
    "val",
    "test",
    "x [1]",
    "{0..2}",
    "é",
    "é",
    "😀",
    "a.b",
    "._a",
    "__MACOSX",
    "metadata",
    "\udcff",
    "",
]
ENDINGS = [
    "jpg",
    "png",
    "txt",
    "json",
    "jsonl",
    "csv",
    "tsv",
    "tar",
    "parquet",
    "heic",
    "cls",
    "TXT",
    "seg.png",
    "gz",
    "",
]


def noise(rng: random.Random) -> bytes:
    return rng.choice(
        [b"", rng.randbytes(rng.randrange(700)), b"\0" * rng.randrange(2000), b"[" * 5000, "é\ud7ff".encode("utf-16")]
    )


def text(rng: random.Random) -> bytes:
    pieces = [
        "a cat",
        '"',
        ",",
        "\t",
        "\n",
        "\r\n",
        "0.png",
        "filepath",
        "title",
        "file_name",
        "text",
        "é",
        "\u2028",
        "['a'",
    ]
    return "".join(rng.choices(pieces, k=rng.randrange(12))).encode(rng.choice(["utf-8", "utf-16", "utf-8-sig"]))


def table(rng: random.Random) -> bytes:
    sep = rng.choice([",", "\t", ";", "|"])
    rows = [sep.join(("filepath", "title", "split")[: rng.randrange(1, 4)])]
    for n in range(rng.randrange(6)):
        cells = rng.choices(
            [f"{n}.png", '"a', 'b"', "x", "", "train", "['a', 'b']", "https://a.b/c.jpg"], k=rng.randrange(1, 5)
        )
        rows.append(sep.join(cells))
    return rng.choice(["\n", "\r\n"]).join(rows).encode()


def lists(rng: random.Random) -> bytes:
    values: list[object] = ["0.png", "a", ["a", "b"], 3, None, {}, "\ud83d", -1.5, ["a", 5]]
    keys = ["file_name", "text", "image", "caption", "images", "annotations", "sentences", "split", "id", "image_id"]

    def value(depth: int) -> object:
        if depth and rng.random() < 0.6:
            items = [value(depth - 1) for _ in range(rng.randrange(3))]
            return items if rng.random() < 0.5 else {rng.choice(keys): item for item in items}
        return rng.choice(values)

    rows = [json.dumps(value(3)) for _ in range(rng.randrange(1, 4))]
    return rng.choice(["\n", ""]).join(rows).encode()


def tar(rng: random.Random) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=rng.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])) as archive:
        for _ in range(rng.randrange(7)):
            info = tarfile.TarInfo(name(rng) * rng.choice([1, 1, 1, 40]))
            info.type = rng.choice([tarfile.REGTYPE] * 6 + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
            content = rng.choice([noise, text, image, lists])(rng) if info.isreg() else b""
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    content = out.getvalue()
    if rng.random() < 0.3 and content:  # cut, flipped, or behind another one
        content = rng.choice([content[: rng.randrange(len(content))], flipped(rng, content), content + content])
    return content


def flipped(rng: random.Random, content: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(5):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged)


def image(rng: random.Random) -> bytes:
    whole = picture(rng.randrange(256))
    return rng.choice([whole, whole, whole, whole[:30], flipped(rng, whole)])


def name(rng: random.Random) -> str:
    stem, ending = rng.choice(WORDS), rng.choice(ENDINGS)
    return f"{stem}.{ending}" if ending else stem or "a"


CONTENTS: dict[str, list[Callable[[random.Random], bytes]]] = {
    "tar": [tar, tar, tar, noise],
    "csv": [table, table, text, noise],
    "tsv": [table, table, text, noise],
    "json": [lists, lists, text, noise],
    "jsonl": [lists, lists, text, noise],
    "txt": [text, noise],
    "jpg": [image, image, noise],
    "png": [image, image, noise],
}


def sound(folder: Path, rng: random.Random) -> None:
    """A data set as people have it, in one of the layouts, whose files are then damaged and added to."""
    count, inside = rng.randrange(1, 6), folder / rng.choice(["", "train", "x [1]"])
    inside.mkdir(exist_ok=True)
    layout = rng.choice(["tar", "files", "jsonl", "csv", "tsv", "json", "parquet"])
    pictures = [picture(10 * n) for n in range(count)]
    if layout == "parquet":
        pq.write_table(pa.table({"image": pictures, "caption": ["a"] * count}), inside / "0.parquet")
    elif layout == "tar":
        members = {
            f"{n}.{ending}": part for n, p in enumerate(pictures) for ending, part in (("png", p), ("txt", b"a"))
        }
        write(inside / "0.tar", members)
    else:
        for n, content in enumerate(pictures):
            (inside / f"{n}.png").write_bytes(content)
            if layout == "files":
                (inside / f"{n}.txt").write_text("a")
    rows = [{"file_name": f"{n}.png", "text": "a"} for n in range(count)]
    if layout == "jsonl":
        (inside / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    elif layout == "json":
        (inside / "list.json").write_text(json.dumps(rows))
    elif layout in ("csv", "tsv"):
        sep = "," if layout == "csv" else "\t"
        lines = [sep.join(("filepath", "title")), *(sep.join((row["file_name"], "a")) for row in rows)]
        (inside / f"list.{layout}").write_text("\n".join(lines))


def damage(folder: Path, rng: random.Random) -> None:
    """Cut, flip or repeat one of the files."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.stat().st_size)
    if not files:
        return
    file = rng.choice(files)
    content = file.read_bytes()
    file.write_bytes(rng.choice([content[: rng.randrange(len(content))], flipped(rng, content), content * 2]))


def clutter(folder: Path, rng: random.Random) -> None:
    """Add a random file somewhere."""
    parent = folder / "/".join(rng.choices(["", "", "sub", "train", "val", "x [1]"], k=rng.randrange(3)))
    file = parent / rng.choice([name(rng), name(rng), "metadata.jsonl", "metadata.csv"])
    with suppress(OSError):  # a file stands where a folder should
        parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(rng.choice(CONTENTS.get(file.suffix[1:].lower(), [noise, text]))(rng))


def make(folder: Path, rng: random.Random) -> None:
    if rng.random() < 0.8:
        sound(folder, rng)
    for _ in range(rng.randrange(3)):
        rng.choice([damage, clutter, clutter])(folder, rng)
    if rng.random() < 0.2:
        with suppress(OSError):
            (folder / "link").symlink_to(rng.choice([folder, folder / "none"]))


def inspect(folder: Path, rng: random.Random) -> int:
    """Look at a folder as `wb data inspect` does; returns the exit status. Raises AssertionError for a traceback, a
    wait without end and a report that contradicts itself."""
    files = sorted(str(file) for file in folder.rglob("*") if file.is_file())
    target = rng.choice([str(folder), str(folder), rng.choice(files or [str(folder)]), f"{folder}/*"])
    source = rng.choice([[], [], [], ["--source", rng.choice(["shards", "csv", "json", "folder", "parquet"])]])
    plain = rng.random() < 0.4
    about = f"{target} {source} {files}"
    try:
        with limit():
            result = CliRunner().invoke(cli, ["data", "inspect", target, *source, *([] if plain else ["--json"])])
    except Hang:
        raise AssertionError(f"it hangs: {about}") from None
    about += f"\n{result.output[-3000:]}"
    assert result.exit_code in (0, 1, 2), about
    assert "Traceback" not in result.output, about
    assert result.exception is None or isinstance(result.exception, SystemExit), about
    if result.exit_code == 0 and not plain:
        facts = json.loads(result.stdout)
        assert facts["pairs"] >= facts["usable"] > 0, about
    return result.exit_code


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
def test_random_folders_end_in_a_report_or_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    seed, number, ends = fresh_seed(), 0, [0, 0, 0]
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and (LONG or number < FOLDERS):
        rng = random.Random(seed + number)
        folder = tmp_path / f"{number}"
        folder.mkdir()
        make(folder, rng)
        try:
            ends[inspect(folder, rng)] += 1
        except AssertionError as error:
            raise AssertionError(f"WB_FUZZ_SEED={seed + number}: {error}") from None
        number += 1
    with capsys.disabled():
        print(f" fuzz: seed {seed}, {number} folders, {ends[0]} reports, {ends[1] + ends[2]} messages")
    assert number < 20 or all(ends[:2])  # else this would test one half of it
