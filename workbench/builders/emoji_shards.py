"""The packaged emoji as webdataset tars, as image-text data mostly comes: something real to try a trainer of tars on.

A sample is a drawing, `000001.webp`, with the texts of its concept in `000001.txt`, one a line, the name first.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from workbench.data.emoji import FILES, PACKAGED

SHARD = 2000
"""drawings a tar"""
SPLITS = ("train", "validation", "test")


def build(out: Path) -> dict[str, Any]:
    """Write out/SPLIT-000000.tar and so on, the same bytes every time; returns how many drawings and tars there are."""
    concepts = pq.read_table(PACKAGED / "concepts.parquet", columns=["concept", "texts"]).to_pydict()
    texts = dict(zip(concepts["concept"], concepts["texts"], strict=True))
    out.mkdir(parents=True, exist_ok=True)
    drawings, tars = {}, {}
    for split in SPLITS:
        rows = pq.read_table(PACKAGED / FILES[split], columns=["image", "concept"]).to_pydict()
        pairs = list(zip(rows["image"], (texts[concept] for concept in rows["concept"]), strict=True))
        for number, begin in enumerate(range(0, len(pairs), SHARD)):
            write(out / f"{split}-{number:06}.tar", begin, pairs[begin : begin + SHARD])
        drawings[split], tars[split] = len(pairs), -(-len(pairs) // SHARD)
    return {"drawings": drawings, "tars": tars}


def write(path: Path, first: int, pairs: Sequence[tuple[bytes, Sequence[str]]], extension: str = "webp") -> None:
    """A tar of encoded images and their captions, numbered from `first` on."""
    with tarfile.open(path, "w") as tar:
        for index, (image, texts) in enumerate(pairs, first):
            for suffix, content in ((extension, image), ("txt", "\n".join(texts).encode())):
                member = tarfile.TarInfo(f"{index:06}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
