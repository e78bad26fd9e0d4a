"""Samples that lists name: a row each, as a CSV file or a metadata.jsonl has them.

Where a picture is all that a row has beside texts, rows with the same picture are one sample with several captions: as
samples of their own they would be each other's false negatives. The lists are held in Arrow's memory, which worker
processes share, not in millions of Python's texts.

The trap: each list has a folder of its own that its paths start from; a `0.jpg` of one is not that of another.
"""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool
from numpy import ndarray

from workbench.errors import did_you_mean, shorten
from workbench.loading.captions import not_utf8
from workbench.loading.cells import ADDRESS, from_base64
from workbench.loading.fields import Fields, ImageField, TextField
from workbench.loading.paths import SPLITS
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
    columns: Mapping[str, Sequence[pa.ChunkedArray]]
    """{column of the table: the columns that it is read from}"""
    left_out: Sequence[Skipped] = ()
    """rows that could not be read"""
    beside: Mapping[str, int] = field(default_factory=dict)
    """{rows that were not asked for: how many}"""
    mixed: str | None = None
    """that they are of several splits"""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))[0])


def lead_of(fields: Fields) -> str | None:
    """Name the field whose equal cells make rows one sample: the picture that has nothing but texts beside it."""
    pictures = [name for name, each in fields.items() if isinstance(each, ImageField)]
    texts = [name for name, each in fields.items() if isinstance(each, TextField)]
    alone = len(pictures) == 1 and len(pictures) + len(texts) == len(fields)
    return pictures[0] if alone and len(fields[pictures[0]].keys) <= 1 else None


class ListedSamples:
    """The rows of some lists; where they have a lead, in the order in which its cells first come up.

    Args:
        lists: them.
        paths: the columns that hold paths.
        lead: the one of them whose equal cells make rows one sample.
        written: columns whose cells are written as JSON, as Arrow has one type for a whole column.
        mixed: what to do where files of several splits are listed together.
    """

    def __init__(
        self,
        lists: Sequence[Listed],
        paths: Sequence[str],
        lead: str | None,
        written: Collection[str] = (),
        mixed: str | None = None,
    ) -> None:
        self.mixed = mixed or next((each.mixed for each in lists if each.mixed), None)
        self.left_out = [skipped for each in lists for skipped in each.left_out]
        self._beside = sum((Counter(each.beside) for each in lists), Counter())
        self.files = len(lists)
        self.roots = [str(each.root) for each in lists]
        self.starts = [0, *accumulate(map(len, lists))][:-1]
        self.folder = common_folder(self.roots)
        self.paths, self.lead, self.written = list(paths), lead, frozenset(written)
        self.columns = {name: self._joined(lists, name) for name in lists[0].columns}
        number = sum(map(len, lists))
        codes = np.arange(number)
        if lead is not None:
            coded = self.columns[lead][0].combine_chunks().dictionary_encode()
            codes, number = coded.indices.to_numpy(), len(coded.dictionary)
        self.rows = np.argsort(codes, kind="stable")
        self.begins = np.searchsorted(codes[self.rows], np.arange(number + 1))

    def _joined(self, lists: Sequence[Listed], name: str) -> list[pa.ChunkedArray]:
        """Put the columns of all lists behind one another, paths as they are from the folder of all lists."""
        joined = []
        for parts in zip(*(each.columns[name] for each in lists), strict=True):
            if name in self.paths:
                parts = [_below(part, root, self.folder) for part, root in zip(parts, self.roots, strict=True)]
            joined.append(_of_one_type(parts))
        return joined

    @property
    def beside(self) -> Mapping[str, int]:
        return self._beside

    def __len__(self) -> int:
        return len(self.begins) - 1

    def name(self, index: int) -> str:
        """Name a row by its first path, and by its place where another row may have the same."""
        row = int(self.rows[self.begins[index]])
        cell = next((cell for name in self.paths for column in self.columns[name] if (cell := _path(column, row))), "")
        if not cell:
            return f"{self.folder}: row {row}"
        if len(cell) <= LONG and from_base64(cell) is None:
            shown = cell if ADDRESS.match(cell) else str(Path(self.folder, cell))
            return shown if self.lead is not None else f"{shown} (row {row})"
        kind = "in base64" if from_base64(cell) is not None else f"'{shorten(cell, 40)}'"
        return f"{self.folder}: picture {index}, {kind}"

    def root(self, index: int, column: str) -> str:
        if column in self.paths:
            return self.folder
        row = int(self.rows[self.begins[index]])
        return self.roots[bisect_right(self.starts, row) - 1]

    def cells(self, index: int, column: str) -> list[object]:
        rows = self.rows[self.begins[index] : self.begins[index + 1]].tolist()
        if column in self.paths:
            rows = rows[:1] if column == self.lead else rows
            return [_path(each, row) for row in rows for each in self.columns[column]]
        try:
            found = [each[row].as_py() for row in rows for each in self.columns[column]]
        except UnicodeDecodeError as error:
            raise ValueError(not_utf8(error)) from None
        return [cell for text in found for cell in json.loads(text)] if column in self.written else found

    def filled(self, column: str) -> Bool[ndarray, " n"]:
        there = np.zeros(len(self.rows), bool)
        for each in self.columns[column]:
            there |= _filled(each, column in self.written)
        return np.logical_or.reduceat(there[self.rows], self.begins[:-1]) if len(self) else there


def _path(column: pa.ChunkedArray, row: int) -> str:
    """Spell a path so that bytes that are not UTF-8 reach the file system as they are."""
    cell = column[row]
    return os.fsdecode(cell.as_buffer().to_pybytes()) if cell.is_valid else ""


def _filled(column: pa.ChunkedArray, written: bool) -> Bool[ndarray, " n"]:
    """Tell the cells that hold something: no empty texts, lists and lists of nothing."""
    if written:
        return np.array(
            [re.search(r"[^\[\]{}\s,\"]", text.replace("null", "")) is not None for text in column.to_pylist()]
        )
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        sizes = pc.list_value_length(column)  # type: ignore[attr-defined]
    else:
        sizes = pc.binary_length(column.cast(pa.large_binary()))  # type: ignore[attr-defined]
    return pc.greater(pc.fill_null(sizes, 0), 0).to_numpy()  # type: ignore[attr-defined]


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
    elsewhere = pc.match_substring_regex(raw, rb"^(/|\w+://|data:)")  # type: ignore[attr-defined]
    coded = pc.greater(pc.binary_length(raw), LONG)  # type: ignore[attr-defined]
    plain = pc.replace_substring_regex(raw, rb"(^|/)(?:\./+)+", rb"\1")  # type: ignore[attr-defined]
    raw = pc.if_else(pc.or_(elsewhere, coded), raw, plain)  # type: ignore[attr-defined]
    if (prefix := os.path.relpath(root, common)) != ".":
        head, slash = (pa.scalar(os.fsencode(part), pa.large_binary()) for part in (prefix, "/"))
        joined = pc.binary_join_element_wise(head, raw, slash)  # type: ignore[attr-defined]
        empty = pc.equal(pc.binary_length(raw), 0)  # type: ignore[attr-defined]
        kept = pc.or_(pc.or_(pc.or_(elsewhere, coded), inside), empty)  # type: ignore[attr-defined]
        raw = pc.if_else(kept, raw, joined)  # type: ignore[attr-defined]
    return pa.chunked_array([chunk.view(pa.large_string()) for chunk in raw.chunks], pa.large_string())


def require_columns(wanted: Sequence[str], there: Sequence[str], where: str, hint: str = "") -> None:
    """Raises ValueError that names the columns there are."""
    for column in wanted:
        if column not in there:
            raise ValueError(f"{where} has no column '{column}'{did_you_mean(column, there)}{hint}")
        if list(there).count(column) > 1:
            raise ValueError(f"{where} has {list(there).count(column)} columns '{column}': rename all but one")


def guess_keys(there: Sequence[str]) -> str:
    """Say which fields read the columns of pictures and captions, where these have usual names."""
    image, caption = (next((name for name in known if name in there), None) for known in (IMAGES, CAPTIONS))
    return f": set data.fields={{image: {{from: {image}}}, text: {{from: {caption}}}}}" if image and caption else ""


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
