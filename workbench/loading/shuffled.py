"""Fields that training samples take from another sample: a control, which tells what a field adds from what it says.

    fields: {image: {}, text: {}, other: {kind: text, from: text, shuffle: true}}

A fusion of `image` and `other` reads texts as long and as varied as those of the samples, and none of them is about the
picture. Another sample is drawn each time, as a fixed one could be learned by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import BadSample
from workbench.loading.fields import Fields
from workbench.loading.table import Readable, Table, read_sample

TRIES = 100
"""draws of a row with another id: where this many are in vain, hardly any row has another"""


@dataclass(frozen=True)
class Mixed:
    """A row of a table, of which some columns stand in other rows."""

    table: Readable
    rows: Mapping[str, int]
    """{column: the row that it is taken from}"""

    def name(self, index: int) -> str:
        return self.table.name(index)

    def root(self, index: int, column: str) -> str | Path:
        return self.table.root(self.rows.get(column, index), column)

    def cells(self, index: int, column: str) -> Sequence[object]:
        return self.table.cells(self.rows.get(column, index), column)


def shuffled_names(fields: Fields) -> list[str]:
    """List the fields that are taken from other samples."""
    return [name for name, field in fields.items() if field.shuffle]


def read_mixed(
    table: Table, index: int, fields: Fields, id_of: Callable[[int], int], rng_of: Callable[[str], np.random.Generator]
) -> dict[str, list[Any]]:
    """Read the raw items of a row, those of a field with `shuffle` from a row of another id. Raises BadSample."""
    shuffled = shuffled_names(fields)
    if not shuffled:
        return read_sample(table, index, fields)
    own, rows = id_of(index), dict[str, int]()
    for name in shuffled:
        draws = rng_of(f"shuffle {name}").integers(len(table), size=TRIES).tolist()
        row = next((row for row in draws if _has_other_id(row, own, id_of)), None)
        if row is None:
            raise BadSample(table.name(index), f"shuffle: no sample of another id in {TRIES} draws: leave shuffle out")
        rows[name] = row
    return read_sample(Mixed(table, rows), index, fields)


def _has_other_id(row: int, own: int, id_of: Callable[[int], int]) -> bool:
    try:
        return id_of(row) != own
    except (OSError, ValueError):  # it is a bad sample, and counted where its turn comes
        return False
