"""Rows of a table that are chosen by other columns than those of its fields: `where: {split: train}`.

The trap: a column that tells the split of each row need not be any field's, so its values are compared as texts, as
which files hold them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from workbench.loading.paths import Paths
from workbench.loading.samples import Samples

Where = Mapping[str, str | int | tuple[str | int, ...]]
"""{column: the value, or the values, that a row must have there}"""
WHERE = ":where "
"""what stands before a column of `where` in the name of that column of a table; no field has such a name"""


class Choice(NamedTuple):
    """Some rows of some files, or of a split."""

    paths: Paths
    where: Where | None


class ChosenRows(Samples[Choice]):
    """Samples whose rows may be chosen by other columns.

    Args:
        path: the training files.
        validation: held-out files for evaluation, likewise, or a share of the ids, as 10 %; null: those of `path`,
            where `validation_where` is given.
        where: rows to train on, by other columns: {split: train}, or {split: [train, restval]}; null: all.
        validation_where: held-out rows, likewise.
        splits: further ones, by name: files, or rows of `path`, as {test: {split: test}}.
    """

    def __init__(
        self,
        *,
        path: Paths,
        validation: Paths | None = None,
        where: Where | None = None,
        validation_where: Where | None = None,
        splits: Mapping[str, Paths | Where] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(Choice(path, where), validation=validation, splits=cast(Any, splits), **more)
        if validation_where:
            if "validation" in self.shares:
                raise ValueError("validation is a share of the ids, or the rows of validation_where, not both")
            self.held_out["validation"] = Choice(validation or path, validation_where)

    def source(self, value: Paths | Where) -> Choice:
        return Choice(self.path.paths, value) if isinstance(value, Mapping) else Choice(value, None)


def where_columns(where: Where | None) -> dict[str, tuple[str, ...]]:
    """List the columns that rows are chosen by, as those of a table."""
    return {WHERE + key: (key,) for key in where or {}}


def is_chosen(cells: Mapping[str, Sequence[object]], where: Where | None) -> bool:
    """Say whether a row has the wanted values; `cells` has the columns of `where_columns`."""
    return all(str(cells[WHERE + key][0]) in values for key, values in texts(where or {}).items())


def chosen(row: Mapping[str, object], where: Where) -> bool:
    """Say whether a row has the wanted values."""
    return all(str(row.get(column)) in values for column, values in texts(where).items())


def texts(where: Where) -> dict[str, tuple[str, ...]]:
    """Spell the values of each column as texts, in which files hold them."""
    return {column: tuple(map(str, v if isinstance(v, tuple | list) else (v,))) for column, v in where.items()}
