"""The set `tux`: pictures, English sentences and voices in fourteen languages, of Debian's stamps. See ../README.md."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageStat

from workbench.builders.emoji.render import BLANK, frame, rasterise
from workbench.builders.tux.rows import FILES, Row, make_rows
from workbench.builders.tux.splits import group_stamps, split_stamps
from workbench.builders.tux.stamps import Stamp, read_stamps

__all__ = ["build"]

SIZE = 128
"""side of the square pictures in pixels"""
SCHEMA = pa.schema(
    [
        *((name, pa.binary()) for name in ("image", "speech", "other", "effect")),
        *((name, pa.string()) for name in ("text", "language", "other_language", "category", "noun", "id", "concept")),
    ]
)
REPEATED = [name for name in SCHEMA.names if name not in ("speech", "other")]
LICENCE = (
    "GPL-2, copyright 2002-2022 Bill Kendrick and the contributors of Tux Paint; some pictures are in the public "
    "domain, under the GFDL or CC BY-SA. Whoever passes these files on has to keep to that ({out}/LICENCE.txt)"
)
NOTICE = """The pictures, sentences and recordings in these files are those of Debian's package tuxpaint-stamps-default
{version}: Stamp files for Tux Paint, copyright 2002-2022 Bill Kendrick and the contributors of Tux Paint
(https://tuxpaint.org), under the GNU General Public License, version 2
(https://www.gnu.org/licenses/old-licenses/gpl-2.0.html, /usr/share/common-licenses/GPL-2 on Debian). Some pictures are
in the public domain, under the GNU Free Documentation License or under Creative Commons BY-SA, as the package's
documentation says of each.

What was changed: drawings were rasterised, and pictures cropped to what is visible, scaled and set on white. Sentences
and recordings are as they were.
"""


def build(out: Path, deb: Path, size: int = SIZE) -> dict[str, object]:
    """Write FILES as parquet and LICENCE.txt to `out`; returns the counts of what is there and of what was left out.

    The same package gives the same bytes, with the same versions of Pillow, resvg-py and pyarrow.

    Args:
        out: folder to write; files of an earlier build are replaced
        deb: tuxpaint-stamps-default_VERSION_all.deb, or the folder that `dpkg-deb -x` unpacks it to
        size: side of the square pictures in pixels

    Raises ValueError when `deb` is no such package, ends early, or needs resvg-py, which is not installed.
    """
    version, stamps, files = read_stamps(deb)
    left_out = Counter(files)
    pictures = draw_pictures(stamps, size, left_out)
    splits, nouns = split_stamps(stamps), group_stamps(stamps)
    rows = make_rows(stamps, splits, nouns, pictures, left_out)
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        write_rows(out / f"{name}.parquet", rows[name])
    (out / "LICENCE.txt").write_text(NOTICE.format(version=version or "(of unknown version)"), encoding="utf-8")
    return {**_count(rows), "left_out": {k: n for k, n in left_out.items() if n}, "licence": LICENCE.format(out=out)}


def draw_pictures(stamps: Iterable[Stamp], size: int, left_out: Counter[str]) -> dict[str, bytes]:
    """Return {name of a stamp: PNG}: on white, cropped to what is visible, a square of `size` pixels.

    A bitmap is taken before a drawing in vectors. Pictures that cannot be read or are white on white, and stamps that
    have none, are counted in `left_out`. Raises ValueError where a drawing needs resvg-py, which is not installed.
    """
    pictures: dict[str, bytes] = {}
    for stamp in stamps:
        if not stamp.pictures:
            left_out["stamps without a picture (kept)"] += 1
            continue
        if "png" not in stamp.pictures and find_spec("resvg_py") is None:
            raise ValueError("resvg-py, which draws SVG, is not installed: pip install 'multimodal-workbench[data]'")
        try:
            square = _draw(stamp.pictures, size)
        except Exception:  # a broken picture may raise anything
            left_out["pictures that cannot be read"] += 1
            continue
        if ImageStat.Stat(square.convert("L")).stddev[0] < BLANK:  # a white glow round a flash of lightning
            left_out["pictures that show nothing on white"] += 1
            continue
        png = io.BytesIO()
        square.save(png, "PNG", optimize=True)
        pictures[stamp.name] = png.getvalue()
    return pictures


def _draw(files: Mapping[str, bytes], size: int) -> Image.Image:
    if "png" in files:
        return frame(Image.open(io.BytesIO(files["png"])), size)
    return frame(rasterise(files["svg"].decode("utf-8"), 2 * size), size)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a parquet file in which a picture that many rows show is stored once in each group of rows."""
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    unfinished = path.with_suffix(".part")  # a build that is stopped leaves no half of a file under its name
    pq.write_table(
        table,
        unfinished,
        compression="zstd",
        row_group_size=1000,
        use_dictionary=REPEATED,  # type: ignore[arg-type]  # a list of columns, which the stubs do not know
        dictionary_pagesize_limit=1 << 26,
        write_page_checksum=True,
    )
    os.replace(unfinished, path)


def _count(rows: Mapping[str, Sequence[Row]]) -> dict[str, object]:
    every = [row for found in rows.values() for row in found]
    return {
        "rows": {name: len(found) for name, found in rows.items()},
        "stamps": {name: len({row["id"] for row in found}) for name, found in rows.items()},
        "pictures": len({row["id"] for row in every if row.get("image")}),
        "voices": dict(Counter(str(row["language"]) for row in every if "language" in row).most_common()),
        "effects": len({row["id"] for row in every if row.get("effect")}),
    }
