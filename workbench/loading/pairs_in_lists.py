"""Pairs that lists name: a picture's path and its captions in each row, as a CSV file or a metadata.jsonl has them.

Rows with the same picture are one pair with several captions: as pairs of their own they would be each other's false
negatives. The list is held in Arrow's memory, which worker processes share, not in millions of Python's texts.

The trap: each list has a folder of its own that its paths start from; a `0.jpg` of one is not that of another.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workbench.errors import did_you_mean, shorten
from workbench.loading.captions import flat, not_utf8
from workbench.loading.paths import SPLITS
from workbench.loading.pictures import ADDRESS, from_base64, read_picture
from workbench.types import Skipped

IMAGES = ("file_name", "image", "filename", "filepath", "image_path", "img", "img_path", "path", "image_name")
CAPTIONS = ("text", "caption", "captions", "title", "sentences", "sentence", "raw", "comment")
"""what a list calls its pictures and captions, mostly"""
LONG = 300
"""characters of a path behind which it is none, or is not shown whole"""


@dataclass
class Listed:
    """The rows of one list."""

    root: Path
    """where relative paths start from"""
    images: pa.ChunkedArray
    """the path of each row's picture"""
    captions: Sequence[pa.ChunkedArray]
    """columns of captions; a cell may be a list of them"""
    left_out: Sequence[Skipped] = ()
    """rows that could not be read"""
    beside: Mapping[str, int] = field(default_factory=dict)
    """{rows that were not asked for: how many}"""
    mixed: str | None = None
    """that they are of several splits"""


class ListedPairs:
    """The pairs of some lists, in the order in which their pictures first come up."""

    def __init__(self, lists: Sequence[Listed], mixed: str | None = None) -> None:
        self.mixed = mixed or next((each.mixed for each in lists if each.mixed), None)
        self.left_out = [skipped for each in lists for skipped in each.left_out]
        self._beside = sum((Counter(each.beside) for each in lists), Counter())
        self.files = len(lists)
        self.root = common_folder([str(each.root) for each in lists])
        images = [chunk for each in lists for chunk in _below(each.images, str(each.root), self.root).chunks]
        columns = zip(*(each.captions for each in lists), strict=True)
        self.columns = [_of_one_type(column) for column in columns]
        coded = pa.chunked_array(images, pa.large_string()).combine_chunks().dictionary_encode()
        codes = coded.indices.to_numpy()
        self.paths = coded.dictionary
        self.rows = np.argsort(codes, kind="stable")
        self.begins = np.searchsorted(codes[self.rows], np.arange(len(self.paths) + 1))

    @property
    def beside(self) -> Mapping[str, int]:
        return self._beside

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        cell = self._cell(index)
        if len(cell) <= LONG and from_base64(cell) is None:
            return cell if ADDRESS.match(cell) else str(Path(self.root, cell))
        kind = "in base64" if from_base64(cell) is not None else f"'{shorten(cell, 40)}'"
        return f"{self.root}: picture {index}, {kind}"

    def image(self, index: int) -> bytes:
        return read_picture(self._cell(index), self.root)

    def captions(self, index: int) -> list[object]:
        rows = self.rows[self.begins[index] : self.begins[index + 1]].tolist()
        try:
            return flat(column[row].as_py() for row in rows for column in self.columns)
        except UnicodeDecodeError as error:
            raise ValueError(not_utf8(error)) from None

    def _cell(self, index: int) -> str:
        """Spell a path so that bytes that are not UTF-8 reach the file system as they are."""
        return os.fsdecode(self.paths[index].as_buffer().to_pybytes())


def _of_one_type(columns: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    """Put the same column of all lists behind one another; a text is a list of one where other lists have lists."""
    types = {column.type for column in columns}
    lists = pa.list_(pa.large_string())
    if len(types) > 1:
        columns = [column if column.type == lists else _as_lists(column) for column in columns]
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks], columns[0].type)


def _as_lists(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    lists = [pa.ListArray.from_arrays(pa.array(range(len(c) + 1), pa.int32()), c) for c in texts.chunks]
    return pa.chunked_array(lists, pa.list_(pa.large_string()))


def common_folder(folders: Sequence[str]) -> str:
    """Name the folder that all of them are in."""
    if len({os.path.isabs(folder) for folder in folders}) > 1:  # noqa: PTH117
        folders = [os.path.abspath(folder) for folder in folders]  # noqa: PTH100
    return os.path.commonpath([os.path.normpath(folder) for folder in folders]) or "."


def _below(images: pa.ChunkedArray, root: str, common: str) -> pa.ChunkedArray:
    """Write paths as they are from the folder that all lists share, so that a picture has one name."""
    raw = images.cast(pa.large_string()).fill_null("").cast(pa.large_binary())
    whole = os.fsencode(os.path.join(os.path.abspath(common), ""))  # noqa: PTH100, PTH118
    inside = pc.starts_with(raw, pattern=whole)  # type: ignore[attr-defined]
    raw = pc.replace_substring_regex(raw, b"^" + re.escape(whole), b"")  # type: ignore[attr-defined]
    if (prefix := os.path.relpath(root, common)) != ".":
        elsewhere = pc.match_substring_regex(raw, rb"^(/|\w+://|data:)")  # type: ignore[attr-defined]
        coded = pc.greater(pc.binary_length(raw), LONG)  # type: ignore[attr-defined]
        head, slash = (pa.scalar(os.fsencode(part), pa.large_binary()) for part in (prefix, "/"))
        joined = pc.binary_join_element_wise(head, raw, slash)  # type: ignore[attr-defined]
        kept = pc.or_(pc.or_(elsewhere, coded), inside)  # type: ignore[attr-defined]
        raw = pc.if_else(kept, raw, joined)  # type: ignore[attr-defined]
    return pa.chunked_array([chunk.view(pa.large_string()) for chunk in raw.chunks], pa.large_string())


def require_columns(wanted: Sequence[str], there: Sequence[str], where: str, hint: str = "") -> None:
    """Raises ValueError that names the columns there are."""
    for column in wanted:
        if column not in there:
            raise ValueError(f"{where} has no column '{column}'{did_you_mean(column, there)}{hint}")
        if list(there).count(column) > 1:
            raise ValueError(f"{where} has {list(there).count(column)} columns '{column}': rename all but one")


def guess_keys(there: Sequence[str], image_key: str) -> str:
    """Say which keys of a recipe name the columns of pictures and captions, where these have usual names."""
    image, caption = (next((name for name in known if name in there), None) for known in (IMAGES, CAPTIONS))
    return f": set data.{image_key}={image} and data.caption_key={caption}" if image and caption else ""


def split_column(columns: Sequence[str]) -> str | None:
    """Name the column that tells the split of each row, if there is one."""
    known = ("split", "splits", "subset", "partition", "set", "fold", "phase", "usage", "stage")
    return next((name for name in columns if name.lower() in known or name.lower().endswith("split")), None)


def mixed_rows(file: str, column: str, values: Mapping[str, int], first_of_all: str = "") -> str | None:
    """Say that rows of several splits would be trained on together; `first_of_all` makes `where` a key of the data."""
    words = {word: split for split, words in SPLITS.items() for word in words}
    splits = {words.get(str(value).strip().lower()) for value in values} - {None}
    if len(splits) < 2:
        return None
    there = ", ".join(f"{value} ({number:,})" for value, number in values.items())
    first, every = next(iter(values)), ", ".join(map(str, values))
    return (
        f"{file} mixes splits, its column '{column}' has {there}: {first_of_all}"
        f"choose rows by data.where={{{column}: {first}}}, "
        f"others by data.validation_where, or all of them by {{{column}: [{every}]}}"
    )
