"""The files of the set: concepts.parquet, a parquet file of drawings for each split, licences and attribution.

The trap: share-alike drawings stay in a folder of their own with their licence, so that everything outside it can be
used under attribution alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from workbench.builders.emoji.sources import PACKAGES, STYLES, WORDS, Style
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
DRAWINGS = pa.schema([("image", pa.binary()), *((name, TEXT) for name in ("concept", "style", "vendor", "licence"))])


class Drawing(NamedTuple):
    """One row of a drawings file."""

    concept: str
    style: Style
    webp: bytes


def write_concepts(out: Path, concepts: Iterable[Concept]) -> None:
    rows = [{**asdict(c), "concept": c.key} for c in concepts]
    _write(pa.Table.from_pylist(rows, schema=CONCEPTS), out / "concepts.parquet")


def write_drawings(out: Path, split: str, drawings: Iterable[Drawing]) -> None:
    rows = [(d.webp, d.concept, d.style.name, d.style.vendor, d.style.licence) for d in drawings]
    table = pa.Table.from_pylist([dict(zip(DRAWINGS.names, row, strict=True)) for row in rows], schema=DRAWINGS)
    _write(table, out / FILES[split])


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns: Any = [name for name in table.column_names if name != "image"]  # a dictionary of pictures saves nothing
    pq.write_table(table, path, compression="zstd", use_dictionary=columns, write_page_checksum=True)
    path.chmod(0o644)


def write_notices(out: Path) -> None:
    """Write ATTRIBUTION.md and the licence texts."""
    licences = Path(__file__).parent / "licences"
    for name, folder in (("MIT.txt", out), ("Unicode-3.0.txt", out), ("CC-BY-SA-4.0.txt", out / "share_alike")):
        shutil.copyfile(licences / name, folder / name)
    drawings = "\n".join(
        f"| {s.name} | {s.credit} | {s.package} {PACKAGES[s.package]} | {s.licence} | {FILES[s.part]} |" for s in STYLES
    )
    words = "\n".join(
        f"| {what} | {credit} | {package} {PACKAGES[package]} | {licence} |" for what, credit, package, licence in WORDS
    )
    (out / "ATTRIBUTION.md").write_text(ATTRIBUTION.format(drawings=drawings, words=words))


ATTRIBUTION = """# Attribution

Every drawing was changed: rasterised where it was a vector drawing, cropped to its visible part, scaled, set on white
and encoded as WebP. The columns `style`, `vendor` and `licence` name the source of each row.

## Drawings

| style | credit | npm package | licence | where (training concepts) |
|---|---|---|---|---|
{drawings}

validation.parquet and test.parquet hold the styles of train.parquet and style_a.parquet. OpenMoji's drawings are
share-alike: they are in the folder `share_alike` only, with their licence.

## Words

| what | credit | npm package | licence |
|---|---|---|---|
{words}

## Licences

- MIT: MIT.txt
- Unicode-3.0: Unicode-3.0.txt
- Apache-2.0: https://www.apache.org/licenses/LICENSE-2.0 (also the LICENSE of the program this set comes with)
- CC-BY-4.0: https://creativecommons.org/licenses/by/4.0/
- CC-BY-SA-4.0: share_alike/CC-BY-SA-4.0.txt, https://creativecommons.org/licenses/by-sa/4.0/
"""
