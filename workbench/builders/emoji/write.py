"""The files of the set: concepts.parquet, a parquet file of drawings for each split, licences and attribution.

The trap: share-alike drawings stay in a folder of their own with their licence, so that everything outside it can be
used under attribution alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from workbench.builders.emoji.sources import PACKAGES, STYLES, Style
from workbench.builders.emoji.texts import LANGUAGES, Concept

FILES = {
    "train": "train.parquet",
    "validation": "validation.parquet",
    "test": "test.parquet",
    "style_a": "style_a.parquet",
    "style_b": "share_alike/style_b.parquet",
}

TEXT = pa.string()
CONCEPTS = pa.schema(
    [
        *((name, TEXT) for name in ("concept", "emoji", "name")),
        ("texts", pa.list_(TEXT)),
        *((name, TEXT) for name in ("group", "subgroup", "family", "split")),
        ("names", pa.struct([(language, TEXT) for language in LANGUAGES])),
    ]
)
DRAWINGS = pa.schema(
    [("image", pa.binary()), *((name, TEXT) for name in ("concept", "style", "vendor", "licence"))]
)


class Drawing(NamedTuple):
    """One row of a drawings file."""

    concept: str
    style: Style
    webp: bytes


def write_concepts(out: Path, concepts: Iterable[Concept]) -> None:
    rows = [{**asdict(c), "concept": c.key} for c in concepts]
    _write(pa.Table.from_pylist(rows, schema=CONCEPTS), out / "concepts.parquet")


def write_drawings(out: Path, split: str, drawings: Iterable[Drawing]) -> None:
    rows = [
        {"image": d.webp, "concept": d.concept, "style": d.style.name, "vendor": d.style.vendor, "licence": d.style.licence}
        for d in drawings
    ]
    _write(pa.Table.from_pylist(rows, schema=DRAWINGS), out / FILES[split])


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # checksums: a damaged page is found on reading. A dictionary of pictures would only store them twice.
    columns = [name for name in table.column_names if name != "image"]
    pq.write_table(table, path, compression="zstd", use_dictionary=columns, write_page_checksum=True)
    path.chmod(0o644)


def write_notices(out: Path) -> None:
    """ATTRIBUTION.md and the licence texts."""
    licences = Path(__file__).parent / "licences"
    for name, folder in (("MIT.txt", out), ("Unicode-3.0.txt", out), ("CC-BY-SA-4.0.txt", out / "share_alike")):
        shutil.copyfile(licences / name, folder / name)
    rows = "\n".join(
        f"| {s.name} | {s.credit} | {s.package} {PACKAGES[s.package]} | {s.licence} | {FILES[s.part]} |" for s in STYLES
    )
    (out / "ATTRIBUTION.md").write_text(ATTRIBUTION.format(rows=rows, **{p.replace("-", "_"): v for p, v in PACKAGES.items()}))


ATTRIBUTION = """# Attribution

Every drawing was changed: rasterised where it was a vector drawing, cropped to its visible part, scaled, set on white
and encoded as WebP. The columns `style`, `vendor` and `licence` name the source of each row.

## Drawings

| style | credit | npm package | licence | file of the training concepts |
|---|---|---|---|---|
{rows}

validation.parquet and test.parquet hold the styles of train.parquet and style_a.parquet. OpenMoji's drawings are
share-alike: they are in the folder `share_alike` only, with their licence.

## Words

| what | credit | npm package | licence |
|---|---|---|---|
| names and keywords | Unicode CLDR, © Unicode, Inc., https://cldr.unicode.org; packaged by emojibase, © Miles Johnson, https://github.com/milesj/emojibase | emojibase-data {emojibase_data} | Unicode-3.0, MIT |
| shortcodes | emojibase (with those of GitHub and iamcal's emoji-data) | emojibase-data {emojibase_data} | MIT |
| more keywords | emojilib, © Mu-An Chiou, https://github.com/muan/emojilib | emojilib {emojilib} | MIT |

## Licences

- MIT: MIT.txt
- Unicode-3.0: Unicode-3.0.txt
- Apache-2.0: https://www.apache.org/licenses/LICENSE-2.0
- CC-BY-4.0: https://creativecommons.org/licenses/by/4.0/
- CC-BY-SA-4.0: share_alike/CC-BY-SA-4.0.txt, https://creativecommons.org/licenses/by-sa/4.0/
"""
