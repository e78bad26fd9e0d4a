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
SPLITS = ("train", "validation", "test")


def build(out: Path, *, shard: int = SHARD, texts_each: int | None = None) -> dict[str, Any]:
    """Write out/SPLIT-000000.tar and so on, the same bytes every time; returns how many drawings and tars there are.

    Args:
        out: the folder.
        shard: drawings a tar.
        texts_each: so many texts of each drawing at most, the name first; None: all.
    """
    concepts = pq.read_table(PACKAGED / "concepts.parquet", columns=["concept", "texts"]).to_pydict()
    texts = dict(zip(concepts["concept"], concepts["texts"], strict=True))
    out.mkdir(parents=True, exist_ok=True)
    drawings, tars = {}, {}
    for split in SPLITS:
        rows = pq.read_table(PACKAGED / FILES[split], columns=["image", "concept"]).to_pydict()
        pairs = list(zip(rows["image"], (texts[concept][:texts_each] for concept in rows["concept"]), strict=True))
        for number, begin in enumerate(range(0, len(pairs), shard)):
            write(out / f"{split}-{number:06}.tar", begin, pairs[begin : begin + shard])
        drawings[split], tars[split] = len(pairs), -(-len(pairs) // shard)
    return {"drawings": drawings, "tars": tars}


def write(path: Path, first: int, pairs: Sequence[tuple[bytes, Sequence[str]]], extension: str = "webp") -> None:
    """Write a tar of encoded images and their captions, numbered from `first` on."""
    with tarfile.open(path, "w") as tar:
        for index, (image, texts) in enumerate(pairs, first):
            for suffix, content in ((extension, image), ("txt", "\n".join(texts).encode())):
                member = tarfile.TarInfo(f"{index:06}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
