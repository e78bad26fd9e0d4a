"""The files of the packaged emoji set as they are, for tests that ask what is made of them."""

from __future__ import annotations

import io

import pyarrow.parquet as pq
from PIL import Image

from workbench.data.emoji import PACKAGED


def rows(name: str) -> list[dict]:
    return pq.read_table(PACKAGED / name).to_pylist()


def decoded(webp: bytes) -> bytes:
    return Image.open(io.BytesIO(webp)).tobytes()
