"""The lengths of vectors and of frames that a recipe does not say: those of the first row that has one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from workbench.loading.fields import Fields, FieldSection, SequenceField, VectorField

CellsOf = Callable[[str], Iterator[tuple[Sequence[object], str | Path]]]
"""gives (cells, the folder that their paths start from) of the rows that have something in a column"""
SEARCHED = 1000
"""rows in which a length is looked for"""


def with_lengths(declared: Fields, cells_of: CellsOf, missing: Callable[[], str | None]) -> Fields:
    """Complete the fields. Raises ValueError where no row tells a length; `missing` says whether there are any rows."""
    found = Fields(declared)
    for name, field in declared.items():
        if isinstance(field, VectorField | SequenceField) and field.dim is None:
            if complaint := missing():
                raise ValueError(f"{complaint}; or say how many numbers there are: --set data.fields.{name}.dim=N")
            found[name] = field.model_copy(update={"dim": _measure(name, field, cells_of)})
    return found


def _measure(name: str, field: FieldSection, cells_of: CellsOf) -> int:
    wrong: Exception | None = None
    for cells, root in islice(cells_of(name), SEARCHED):
        try:
            if items := field.read(cells, root):
                return items[0].shape[-1]
        except (OSError, ValueError) as error:
            wrong = wrong or error
    said = f": {wrong}" if wrong else ": all of them are empty"
    raise ValueError(f"field '{name}' cannot be read in the first {SEARCHED} rows that have it{said}")
