"""Pairs in the rows of a Hugging Face `datasets` table: pictures as bytes, as its Image feature, or as paths.

`datasets` is imported by the functions that need it: it takes a second, which `wb check` and `wb show` do not pay.

The trap: an iterable data set splits its parts among torch's workers by itself, behind our split, unless it is read by
`iter`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.errors import BadSample, shorten
from workbench.loading.captions import flat
from workbench.loading.pairs_in_lists import require_columns
from workbench.loading.pictures import read_picture
from workbench.loading.table import Raw
from workbench.types import Skipped

if TYPE_CHECKING:
    import datasets

READ_AHEAD = 16
"""rows that are read at once when streaming"""
TEXTS = ("string", "large_string", "string_view", "null")
"""Arrow's types of texts"""


class Columns(NamedTuple):
    """Where the pairs stand in a row."""

    image: str
    """the column of pictures"""
    captions: tuple[str, ...]
    """the columns of captions; a cell may be a list of them"""
    label: str
    """what a row's name begins with"""


class ArrowPairs:
    """Random access to a data set on the disk, which is mapped into memory, not read.

    Args:
        data: the table.
        columns: those of the pairs.
        roots: where relative paths start from, from which row on, in their order.
        files: how many files it was read from, where that says something.

    Raises ValueError when it lacks a column, or when one holds what is no picture or caption.
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
        self._images = data.select_columns([columns.image])
        self._captions = data.select_columns(list(columns.captions))  # apart, or captions would cost the picture, too

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        return f"{self.columns.label}: row {index}"

    def image(self, index: int) -> bytes:
        _, root = self.roots[bisect_right(self.roots, index, key=lambda begin: begin[0]) - 1]
        return read_picture(self._images[index][self.columns.image], root)

    def captions(self, index: int) -> list[object]:
        row = self._captions[index]
        return flat(named(row[key], self._names.get(key)) for key in self.columns.captions)


def load(path: str, *args: Any, **options: Any) -> Any:
    """Call datasets.load_dataset. Whatever goes wrong with the hub, the network, a format is a ValueError."""
    import datasets

    try:
        return datasets.load_dataset(path, *args, **options)
    except Exception as error:  # anything at all
        raise ValueError(f"{type(error).__name__}: {shorten(str(error.__cause__ or error), 1000)}") from None


def undecoded(data: Any, columns: Columns) -> Any:
    """Select the columns of pairs, with pictures left as bytes: they are decoded here, with limits."""
    import datasets

    there = data.column_names  # None where nothing says so before the first row
    if there is not None:
        require_columns([columns.image, *columns.captions], there, columns.label)
        data = data.select_columns(list(dict.fromkeys([columns.image, *columns.captions])))
    features = data.features or {}
    if isinstance(features.get(columns.image), datasets.Image):
        data = data.cast_column(columns.image, datasets.Image(decode=False))
    _refuse_types(features, columns)
    return data


def _refuse_types(features: Mapping[str, object], columns: Columns) -> None:
    """Raises ValueError for a column of numbers, say: one message, not one for each row."""
    for key in columns.captions:
        feature = _inside(features.get(key))
        held = f"blocks ({', '.join(feature)})" if isinstance(feature, dict) else _held(feature, TEXTS)
        if held:
            raise ValueError(f"column '{key}' of {columns.label} holds {held}, and captions are texts")
    if held := _held(features.get(columns.image), (*TEXTS, "binary", "large_binary", "binary_view")):
        raise ValueError(f"column '{columns.image}' of {columns.label} holds {held}; pictures are bytes, paths, Image")


def _held(feature: object, allowed: Sequence[str]) -> str | None:
    """Name the type of a column that is not among the allowed ones."""
    import datasets

    if isinstance(feature, datasets.List | datasets.LargeList):
        return "lists"
    return feature.dtype if isinstance(feature, datasets.Value) and feature.dtype not in allowed else None


def class_names(features: Mapping[str, object] | None, columns: Columns) -> dict[str, list[str]]:
    """List the names of the classes in each column of captions that holds the numbers of classes."""
    import datasets

    inside = {key: _inside((features or {}).get(key)) for key in columns.captions}
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
    """Read the pairs of one of a streamed data set's parts (its files, mostly)."""
    shard = data.shard(num_shards=data.num_shards, index=part)
    names = class_names(data.features, columns)
    number = 0
    for rows in shard.iter(batch_size=READ_AHEAD):
        require_columns([columns.image, *columns.captions], list(rows), columns.label)
        for place, cell in enumerate(rows[columns.image]):
            name = f"{columns.label}: part {part}, row {number}"
            number += 1
            try:
                said = flat(named(rows[key][place], names.get(key)) for key in columns.captions)
                yield Raw(name, read_picture(cell, root), said)
            except (OSError, ValueError) as error:
                yield BadSample(name, shorten(str(error)))
