"""Pairs that a list names: a picture's path and its captions in each row, as a CSV file or a metadata.jsonl has them.

Rows with the same picture are one pair with several captions: as pairs of their own they would be each other's false
negatives. The list is held in Arrow's memory, which worker processes share, not in millions of Python strings.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from workbench.errors import did_you_mean
from workbench.loading.captions import flat
from workbench.loading.paths import read_bytes
from workbench.types import Skipped


class ListedPairs:
    """Pairs in the order in which their pictures first come up.

    Args:
        root: where relative paths start from.
        images: the path of each row's picture.
        captions: columns of captions; a cell may be a list of them.
        left_out: rows that could not be read.
    """

    def __init__(
        self, root: Path, images: pa.ChunkedArray, captions: Sequence[pa.ChunkedArray], left_out: Sequence[Skipped]
    ) -> None:
        self.root, self.columns, self.left_out = root, captions, left_out
        coded = images.cast(pa.large_string()).fill_null("").combine_chunks().dictionary_encode()
        codes = coded.indices.to_numpy()
        self.paths = coded.dictionary
        self.rows = np.argsort(codes, kind="stable")
        self.begins = np.searchsorted(codes[self.rows], np.arange(len(self.paths) + 1))

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return str(self._path(index))

    def image(self, index: int) -> bytes:
        return read_bytes(self._path(index))

    def captions(self, index: int) -> list[Any]:
        rows = self.rows[self.begins[index] : self.begins[index + 1]].tolist()
        return flat(column[row].as_py() for row in rows for column in self.columns)

    def _path(self, index: int) -> Path:
        """Bytes that are not UTF-8 reach the file system as they are."""
        return self.root / os.fsdecode(self.paths[index].as_buffer().to_pybytes())


def require_columns(wanted: Sequence[str], there: Sequence[str], where: str) -> None:
    """Raises ValueError that names the columns there are."""
    for column in wanted:
        if column not in there:
            raise ValueError(f"{where} has no column '{column}'{did_you_mean(column, there)}")
