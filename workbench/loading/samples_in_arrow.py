"""Samples in the rows of a Hugging Face `datasets` table: files as bytes, as its Image or Audio feature, or as paths.

`datasets` is imported by the functions that need it: it takes a second, which `wb check` and `wb show` do not pay.

The trap: an iterable data set splits its parts among torch's workers by itself, behind our split, unless it is read by
`iter`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int64
from numpy import ndarray

from workbench.errors import BadSample, shorten
from workbench.loading.cells import lookup
from workbench.loading.chosen_rows import WHERE, Where, texts
from workbench.loading.fields import AudioField, Fields, FieldSection, ImageField, TextField
from workbench.loading.samples_in_lists import require_columns
from workbench.loading.table import Part, Raw, Table
from workbench.types import Skipped

if TYPE_CHECKING:
    import datasets

READ_AHEAD = 16
"""rows that are read at once when streaming"""
TEXTS = ("string", "large_string", "string_view", "null")
"""Arrow's types of texts"""
FILES = (*TEXTS, "binary", "large_binary", "binary_view")
"""Arrow's types of what may be a file, or its path"""
WORDS = {ImageField: "pictures are bytes, paths, Image", AudioField: "sounds are bytes, paths, Audio"}


@dataclass(frozen=True)
class Columns:
    """Where the columns of samples stand in a row.

    Args:
        keys: {column: the keys that it is read from}.
        fields: the fields among them.
        label: what a row's name begins with.
    """

    keys: Mapping[str, tuple[str, ...]]
    fields: Fields
    label: str

    def top(self, there: Sequence[str]) -> list[str]:
        """List the columns of the table that are read: of a dotted key the first part, where it is no column itself."""
        return list(dict.fromkeys(_top(key, there) for each in self.keys.values() for key in each))


def _top(key: str, there: Sequence[str]) -> str:
    return key if key in there or "." not in key else key.split(".")[0]


class ArrowSamples:
    """Random access to a data set on the disk, which is mapped into memory, not read.

    Args:
        data: the table.
        columns: those of the samples.
        roots: where relative paths start from, from which row on, in their order.
        files: how many files it was read from, where that says something.

    Raises ValueError when it lacks a column, or when one holds what its field cannot be read from.
    """

    left_out: Sequence[Skipped] = ()
    beside: Mapping[str, int] = {}
    mixed: str | None = None

    def __init__(
        self,
        data: datasets.Dataset,
        columns: Columns,
        roots: Sequence[tuple[int, Path]],
        files: int | None = None,
    ) -> None:
        data = undecoded(data, columns)
        self.columns, self.roots, self.files = columns, roots, files
        self._names = class_names(data.features, columns)
        there = data.column_names
        # apart, or a caption would cost the picture, too
        self._data = {
            name: data.select_columns(list(dict.fromkeys(_top(key, there) for key in keys)))
            for name, keys in columns.keys.items()
        }
        self._rows = len(data)

    def __len__(self) -> int:
        return self._rows

    def name(self, index: int) -> str:
        return f"{self.columns.label}: row {index}"

    def root(self, index: int, column: str) -> Path:
        return self.roots[bisect_right(self.roots, index, key=lambda begin: begin[0]) - 1][1]

    def cells(self, index: int, column: str) -> list[object]:
        row = self._data[column][index]
        return [named(lookup(row, key), self._names.get(key)) for key in self.columns.keys[column]]

    def chosen(self, where: Where | None) -> Table:
        """Keep the rows that have the wanted values in other columns; they keep their names."""
        if not where:
            return self
        keep = np.ones(len(self), bool)
        for key, values in texts(where).items():
            cells = (cell for rows in self._data[WHERE + key].iter(10_000) for cell in _cells_of(rows, key))
            names = self._names.get(key)
            keep &= np.fromiter((str(named(cell, names)) in values for cell in cells), bool, len(self))
        self.beside = {f"rows other than {where}": int((~keep).sum())}
        return Part(self, keep.nonzero()[0], mixed=self.mixed)

    def filled(self, column: str) -> Bool[ndarray, " n"]:
        data = self._data[column].with_format("arrow")
        there = np.zeros(len(self), bool)
        for key in self.columns.keys[column]:
            begin = 0
            for rows in data.iter(batch_size=10_000):
                found = _filled(_inner(rows, key))
                there[begin : begin + len(found)] |= found
                begin += len(found)
        return there

    def repeats(self, column: str) -> tuple[Int64[ndarray, " n"], Int64[ndarray, " d"]]:
        """Return for each row which of d distinct cells it has, and the first row of each.

        Only single columns of texts or bytes from one folder are compared; else all rows count as different.
        """
        keys, roots = self.columns.keys[column], {root for _, root in self.roots}
        cells = _inner(self._data[column].with_format("arrow")[:], keys[0]) if len(keys) == len(roots) == 1 else None
        if cells is None or str(cells.type) not in FILES:
            return np.arange(len(self)), np.arange(len(self))
        coded = cells.combine_chunks().dictionary_encode(null_encoding="encode")
        item = coded.indices.to_numpy().astype(np.int64)
        return item, np.unique(item, return_index=True)[1]


def _cells_of(rows: Any, key: str) -> Iterator[object]:
    """Give the cells of a key, or of a dotted one, in a batch of rows."""
    top = _top(key, list(rows))
    yield from (lookup({top: cell}, key) for cell in rows[top])


def _inner(rows: pa.Table, key: str) -> pa.ChunkedArray:
    """Find the cells of a key, or of a dotted one in a column of blocks."""
    top = _top(key, rows.column_names)
    cells = rows[top]
    for part in key.removeprefix(top).split(".")[1:]:
        cells = pc.struct_field(cells, part)  # type: ignore[attr-defined]
    return cells


def _filled(cells: pa.ChunkedArray) -> Bool[ndarray, " n"]:
    """Tell the cells that hold something."""
    there, kind = cells.is_valid(), cells.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        there = pc.and_(there, pc.greater(pc.fill_null(pc.list_value_length(cells), 0), 0))  # type: ignore[attr-defined]
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        there = pc.and_(there, pc.greater(pc.fill_null(pc.binary_length(cells), 0), 0))  # type: ignore[attr-defined]
    elif pa.types.is_struct(kind) and kind.num_fields:
        inside = [_filled(pc.struct_field(cells, [place])) for place in range(kind.num_fields)]  # type: ignore[attr-defined]
        return np.logical_or.reduce(inside)
    return there.to_numpy()


def load(path: str, *args: Any, **options: Any) -> Any:
    """Call datasets.load_dataset. Whatever goes wrong with the hub, the network, a format is a ValueError."""
    import datasets

    try:
        return datasets.load_dataset(path, *args, **options)
    except Exception as error:  # anything at all
        raise ValueError(f"{type(error).__name__}: {shorten(str(error.__cause__ or error), 1000)}") from None


def undecoded(data: Any, columns: Columns) -> Any:
    """Select the columns of samples, with files left as bytes: they are decoded here, with limits."""
    import datasets

    there = data.column_names  # None where nothing says so before the first row
    if there is not None:
        wanted = columns.top(there)
        require_columns(wanted, there, columns.label)
        data = data.select_columns(wanted)
    features = data.features or {}
    for key, feature in features.items():
        if isinstance(feature, datasets.Image | datasets.Audio):
            data = data.cast_column(key, type(feature)(decode=False))
    for name, field in columns.fields.items():
        for key in columns.keys[name]:
            _refuse_type(key, _feature(features, key), field, columns.label)
    return data


def _feature(features: Mapping[str, object], key: str) -> object:
    """Tell the type of a key, or of a dotted one in a column of blocks. Raises ValueError where a block lacks it."""
    found: object = features.get(_top(key, list(features)))
    for part in key.removeprefix(_top(key, list(features))).split(".")[1:]:
        if isinstance(found, Mapping) and part not in found:
            raise ValueError(f"there is no '{part}' for '{key}': its block has {', '.join(found)}")
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _refuse_type(key: str, feature: object, field: FieldSection, label: str) -> None:
    """Raises ValueError for a column of numbers in the place of texts, say: one message, not one for each row."""
    if isinstance(field, TextField):
        inside = _inside(feature)
        held = f"blocks ({', '.join(inside)})" if isinstance(inside, dict) else _held(inside, TEXTS)
        if held:
            raise ValueError(f"column '{key}' of {label} holds {held}, and captions are texts")
    elif (words := WORDS.get(type(field))) and (held := _held(feature, FILES)):
        raise ValueError(f"column '{key}' of {label} holds {held}; {words}")


def _held(feature: object, allowed: Sequence[str]) -> str | None:
    """Name the type of a column that is not among the allowed ones."""
    import datasets

    if isinstance(feature, datasets.List | datasets.LargeList):
        return "lists"
    return feature.dtype if isinstance(feature, datasets.Value) and feature.dtype not in allowed else None


def class_names(features: Mapping[str, object] | None, columns: Columns) -> dict[str, list[str]]:
    """List the names of the classes in each column of texts and labels that holds the numbers of classes."""
    import datasets

    keys = [
        key
        for name, each in columns.keys.items()
        if name not in columns.fields or isinstance(columns.fields[name], TextField)
        for key in each
    ]
    inside = {key: _inside(_feature(features or {}, key)) for key in keys}
    return {key: list(feature.names) for key, feature in inside.items() if isinstance(feature, datasets.ClassLabel)}


def _inside(feature: object) -> object:
    """Tell the type of what a list holds, or of a column that holds no list."""
    import datasets

    return feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else feature


def named(cell: object, names: Sequence[str] | None) -> object:
    """Replace the numbers of classes by their names, which are what can be learnt from; -1 has none."""
    if names is None:
        return cell
    if isinstance(cell, list):
        return [named(item, names) for item in cell]
    return names[cell] if isinstance(cell, int) and 0 <= cell < len(names) else None


def read_part(data: datasets.IterableDataset, part: int, columns: Columns, root: Path) -> Iterator[Raw | BadSample]:
    """Read the samples of one of a streamed data set's parts (its files, mostly)."""
    shard = data.shard(num_shards=data.num_shards, index=part)
    names = class_names(data.features, columns)
    number = 0
    for rows in shard.iter(batch_size=READ_AHEAD):
        require_columns(columns.top(list(rows)), list(rows), columns.label)
        for place in range(len(next(iter(rows.values())))):
            name = f"{columns.label}: part {part}, row {number}"
            number += 1
            row = {key: cells[place] for key, cells in rows.items()}
            yield Raw(
                name,
                {
                    column: [named(lookup(row, key), names.get(key)) for key in keys]
                    for column, keys in columns.keys.items()
                },
                root,
            )
