"""Where samples lie: a table of rows with named columns of cells, read by position.

The columns are those of the fields, by their names, and beside them the id and the labels, if there are any.

The trap: worker processes read a table, too, so it keeps no file open: a handle that they share would share its
position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, overload

from jaxtyping import Bool, Int64
from numpy import ndarray

from workbench.errors import BadSample, shorten
from workbench.loading.fields import Fields, FieldSection
from workbench.types import Skipped

ID = ":id"
"""the column of ids; no field has such a name"""
LABEL = ":label "
"""what stands before the name of a label in that of its column"""
ENOUGH = 2
"""modalities that a sample has at least: of one alone there is nothing to learn"""


class Raw(NamedTuple):
    """A sample as it lies in its source."""

    name: str
    cells: Mapping[str, Sequence[object]]
    """{column: its cells}"""
    root: str | Path = ""
    """folder that relative paths start from"""


class Readable(Protocol):
    """Rows whose cells can be read. It raises OSError or ValueError for one that it cannot read."""

    def name(self, index: int) -> str:
        """Say what a person finds the sample by; no other one has this name."""
        ...

    def root(self, index: int, column: str) -> str | Path:
        """Name the folder that relative paths in a cell start from."""
        ...

    def cells(self, index: int, column: str) -> Sequence[object]:
        """Read what the source has in a column: a cell, or as many as there are; some may be empty."""
        ...


class Table(Readable, Protocol):
    """Rows in a fixed order."""

    @property
    def left_out(self) -> Sequence[Skipped]:
        """what was found not to be a sample while listing"""
        ...

    @property
    def beside(self) -> Mapping[str, int]:
        """Count what lies there and was not asked for, by what it is."""
        ...

    @property
    def mixed(self) -> str | None:
        """what to do where rows of several splits are listed together: nobody trains on test data by a glob"""
        ...

    @property
    def files(self) -> int | None:
        """how many files the rows lie in, where that says something"""
        ...

    def __len__(self) -> int: ...

    def filled(self, column: str) -> Bool[ndarray, " n"]:
        """Tell the rows that have something in a column, without reading what."""
        ...


@dataclass(frozen=True)
class Part:
    """Some rows of a table."""

    table: Table
    rows: Int64[ndarray, " m"]
    left_out: Sequence[Skipped] = ()
    mixed: str | None = None

    @property
    def beside(self) -> Mapping[str, int]:
        return self.table.beside

    @property
    def files(self) -> int | None:
        return self.table.files

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return self.table.name(int(self.rows[index]))

    def root(self, index: int, column: str) -> str | Path:
        return self.table.root(int(self.rows[index]), column)

    def cells(self, index: int, column: str) -> Sequence[object]:
        return self.table.cells(int(self.rows[index]), column)

    def filled(self, column: str) -> Bool[ndarray, " m"]:
        return self.table.filled(column)[self.rows]


def read_sample(table: Readable, index: int, fields: Fields) -> dict[str, list[Any]]:
    """Read the raw items of a row, of each field as many as there are. Raises BadSample."""
    try:
        return _read(fields, lambda name: (table.cells(index, name), table.root(index, name)))
    except (OSError, ValueError) as error:
        raise BadSample(table.name(index), shorten(str(error))) from None  # the name only now: it has to be read, too


def decode_sample(raw: Raw, fields: Fields) -> dict[str, list[Any]]:
    """Make the raw items of a sample that was streamed. Raises BadSample."""
    try:
        return _read(fields, lambda name: (raw.cells[name], raw.root))
    except (OSError, ValueError) as error:
        raise BadSample(raw.name, shorten(str(error))) from None


def _read(fields: Fields, cells_of: Callable[[str], tuple[Sequence[object], str | Path]]) -> dict[str, list[Any]]:
    """Read every field from its (cells, root). Raises ValueError, which names the field where there are many."""
    found: dict[str, list[Any]] = {}
    for name, field in fields.items():
        try:
            found[name] = field.read(*cells_of(name))
        except (OSError, ValueError) as error:
            raise ValueError(str(error) if len(fields) == ENOUGH else f"{name}: {error}") from None
    refuse_gaps(found, fields)
    return found


def refuse_gaps(found: Mapping[str, Sequence[object]], fields: Mapping[str, FieldSection]) -> None:
    """Raise ValueError for a sample that lacks a required field, or has fewer than two."""
    there = [name for name, items in found.items() if items]
    for name, field in fields.items():
        if field.required and name not in there:
            raise ValueError(f"{field.nothing} ('{name}' is required)")
    if len(there) >= ENOUGH:
        return
    lacking = [field.nothing for name, field in fields.items() if name not in there]
    if len(fields) == ENOUGH:
        raise ValueError(lacking[0])
    raise ValueError(
        f"has {f'only its {there[0]}' if there else 'nothing'}, of {', '.join(fields)}: a sample has two at least"
    )


@dataclass(frozen=True)
class RawItems(Sequence[Any]):
    """The first item of one field in some rows of a table, decoded on access."""

    table: Table
    name: str
    field: FieldSection
    rows: list[int]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Any: ...
    @overload
    def __getitem__(self, at: slice) -> RawItems: ...
    def __getitem__(self, at: int | slice) -> Any:
        if isinstance(at, slice):
            return RawItems(self.table, self.name, self.field, self.rows[at])
        row = self.rows[at]
        return self.field.read(self.table.cells(row, self.name), self.table.root(row, self.name))[0]
