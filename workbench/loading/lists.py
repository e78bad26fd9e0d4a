"""Sources whose files are lists of rows: the settings that they share, beside those of all samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from workbench.loading.fields import AudioField, ImageField, TextField
from workbench.loading.paths import Paths, describe, expand, missing, mixed
from workbench.loading.samples import Samples
from workbench.loading.samples_in_lists import Listed, ListedSamples, lead_of

Where = Mapping[str, str | int | tuple[str | int, ...]]
"""{column: the value, or the values, that a row must have there}"""


class Choice(NamedTuple):
    """Some rows of some lists."""

    paths: Paths
    where: Where | None


class ListSamples(Samples[Choice]):
    """Samples whose rows are in lists, which name their files.

    Args:
        path: the training lists: a file, a glob, braces, or a list of them.
        validation: held-out lists for evaluation, likewise, or a share of the ids, as 10 %; null: those of `path`,
            where `validation_where` is given.
        root: folder that relative paths start from; null: the folder of each list.
        where: rows to train on, by other columns: {split: train}, or {split: [train, restval]}; null: all.
        validation_where: held-out rows, likewise.
        splits: further ones, by name: files, or rows of `path`, as {test: {split: test}}.
    """

    kind: str
    """what such a list is called"""
    holds: str
    """what has to be in one, in brackets"""
    example: str
    """where one may lie"""
    written = False
    """whether cells that are no texts are written as JSON"""

    def __init__(
        self,
        *,
        path: Paths,
        validation: Paths | None = None,
        root: Path | None = None,
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
        self.root = root
        self.lead = lead_of(self.declared)

    def source(self, value: Paths | Where) -> Choice:
        return Choice(self.path.paths, value) if isinstance(value, Mapping) else Choice(value, None)

    @abstractmethod
    def read(self, file: str, where: Where | None) -> Listed:
        """Read the rows of a list. Raises ValueError with the remedy when it cannot be read."""

    def absent(self, source: Choice) -> str | None:
        return missing(source.paths, self.kind, self.holds, self.key_of(source), self.example)

    def table(self, source: Choice) -> ListedSamples:
        if complaint := self.absent(source):
            raise ValueError(complaint)
        files, _ = expand(source.paths)
        lists = [self.read(file, source.where) for file in files]
        if not any(map(len, lists)):
            left_out = [skipped for each in lists for skipped in each.left_out]
            why = f"; the first one is {left_out[0]}" if left_out else ""
            rows = "no row that is a pair" if left_out else f"no row where {source.where}" if source.where else "no row"
            said = f"a header, and {rows} below it" if self.kind == "CSV file" else rows
            raise ValueError(f"{describe(source.paths)} has {said}{why}")
        return ListedSamples(lists, self.paths, self.lead, self.written_columns, mixed(source.paths))

    @property
    def paths(self) -> list[str]:
        """List the fields whose cells are paths."""
        return [name for name, field in self.declared.items() if isinstance(field, ImageField | AudioField)]

    @property
    def written_columns(self) -> set[str]:
        """List the columns whose cells are written as JSON: all but paths and texts, where they are more than texts."""
        texts = {name for name, field in self.declared.items() if isinstance(field, TextField)}
        return {*self.columns} - {*self.paths} - texts if self.written else set()


def chosen(row: Mapping[str, object], where: Where) -> bool:
    """Say whether a row has the wanted values. Raises ValueError naming the columns there are."""
    return all(str(row.get(column)) in values for column, values in texts(where).items())


def texts(where: Where) -> dict[str, tuple[str, ...]]:
    """Spell the values of each column as texts, in which files hold them."""
    return {column: tuple(map(str, v if isinstance(v, tuple | list) else (v,))) for column, v in where.items()}
