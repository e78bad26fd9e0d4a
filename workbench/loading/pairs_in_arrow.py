"""Pairs in the rows of a Hugging Face `datasets` table: pictures as bytes, as its Image feature, or as paths.

The trap: an iterable data set splits its parts among torch's workers by itself, behind our split, unless it is read by
`iter`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets

from workbench.errors import BadSample
from workbench.loading.captions import flat
from workbench.loading.pairs_in_lists import require_columns
from workbench.loading.paths import read_bytes
from workbench.loading.table import Raw
from workbench.types import Skipped

READ_AHEAD = 16
"""rows that are read at once when streaming"""


class ArrowPairs:
    """Random access to a data set on the disk, which is mapped into memory, not read.

    Args:
        data: the table.
        image_key: the column of pictures.
        caption_keys: the columns of captions; a cell may be a list of them.
        label: what a row's name begins with.
        root: where relative paths start from.

    Raises ValueError when it lacks a column.
    """

    left_out: Sequence[Skipped] = ()

    def __init__(
        self, data: datasets.Dataset, image_key: str, caption_keys: Sequence[str], label: str, root: Path
    ) -> None:
        data = undecoded(data, image_key, caption_keys, label)
        self.image_key, self.caption_keys, self.label, self.root = image_key, tuple(caption_keys), label, root
        self._images = data.select_columns([image_key])
        self._captions = data.select_columns(list(caption_keys))  # apart, or a look at captions would read the picture

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        return f"{self.label}: row {index}"

    def image(self, index: int) -> bytes:
        return picture(self._images[index][self.image_key], self.root)

    def captions(self, index: int) -> list[Any]:
        row = self._captions[index]
        return flat(row[key] for key in self.caption_keys)


def load(path: str, *args: Any, **options: Any) -> Any:
    """datasets.load_dataset; what goes wrong with the hub, the network, a format is a ValueError with its cause."""
    try:
        return datasets.load_dataset(path, *args, **options)
    except Exception as error:  # anything at all
        raise ValueError(f"{type(error).__name__}: {error.__cause__ or error}") from None


def undecoded(data: Any, image_key: str, caption_keys: Sequence[str], label: str) -> Any:
    """The columns of pairs, with pictures left as bytes: they are decoded here, with limits."""
    columns = data.column_names  # None where nothing says so before the first row
    if columns is not None:
        require_columns([image_key, *caption_keys], columns, label)
        data = data.select_columns([image_key, *caption_keys])
    if isinstance((data.features or {}).get(image_key), datasets.Image):
        data = data.cast_column(image_key, datasets.Image(decode=False))
    return data


def picture(cell: Any, root: Path) -> bytes:
    """The encoded picture in a cell: bytes, {bytes, path}, or a path. Raises OSError and ValueError."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, str):
        return read_bytes(root / cell)
    if not isinstance(cell, bytes):
        raise ValueError(f"no picture, but {type(cell).__name__}")
    return cell


def read_part(
    data: datasets.IterableDataset, part: int, image_key: str, caption_keys: Sequence[str], label: str, root: Path
) -> Iterator[Raw | BadSample]:
    """The pairs of one of a streamed data set's parts (its files, mostly)."""
    shard = data.shard(num_shards=data.num_shards, index=part)
    number = 0
    for rows in shard.iter(batch_size=READ_AHEAD):
        require_columns([image_key, *caption_keys], list(rows), label)
        for place, cell in enumerate(rows[image_key]):
            name = f"{label}: part {part}, row {number}"
            number += 1
            try:
                yield Raw(name, picture(cell, root), flat(rows[key][place] for key in caption_keys))
            except (OSError, ValueError) as error:
                yield BadSample(name, str(error))
