"""Sources whose files name pictures: the settings that they share, beside those of all pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from workbench.loading.pairs import Pairs
from workbench.loading.pairs_in_lists import Listed, ListedPairs
from workbench.loading.paths import Paths, describe, expand, missing, mixed

Where = Mapping[str, str | int | tuple[str | int, ...]]
"""{column: the value, or the values, that a row must have there}"""


class Choice(NamedTuple):
    """Some rows of some lists."""

    paths: Paths
    where: Where | None


class ListPairs(Pairs[Choice]):
    """Image-text pairs whose pictures are named by lists.

    Args:
        path: the training lists: a file, a glob, braces, or a list of them.
        validation: held-out lists for evaluation, likewise; null: those of `path`, where `validation_where` is given.
        root: folder that relative image paths start from; null: the folder of each list.
        where: rows to train on, by other columns: {split: train}, or {split: [train, restval]}; null: all.
        validation_where: held-out rows, likewise.
    """

    kind: str
    """what such a list is called"""
    columns: str
    """what has to be in one, in brackets"""
    example: str
    """where one may lie"""

    def __init__(
        self,
        *,
        path: Paths,
        validation: Paths | None = None,
        root: Path | None = None,
        where: Where | None = None,
        validation_where: Where | None = None,
        **more: Any,
    ) -> None:
        held_out = validation or (path if validation_where else None)
        super().__init__(Choice(path, where), Choice(held_out, validation_where) if held_out else None, **more)
        self.root = root

    @abstractmethod
    def read(self, file: str, where: Where | None) -> Listed:
        """Read the rows of a list. Raises ValueError with the remedy when it cannot be read."""

    def absent(self, source: Choice) -> str | None:
        return missing(source.paths, self.kind, self.columns, self.key_of(source), self.example)

    def table(self, source: Choice) -> ListedPairs:
        if complaint := self.absent(source):
            raise ValueError(complaint)
        files, _ = expand(source.paths)
        lists = [self.read(file, source.where) for file in files]
        if not any(len(each.images) for each in lists):
            left_out = [skipped for each in lists for skipped in each.left_out]
            why = f"; the first one is {left_out[0]}" if left_out else ""
            rows = "no row that is a pair" if left_out else f"no row where {source.where}" if source.where else "no row"
            said = f"a header, and {rows} below it" if self.kind == "CSV file" else rows
            raise ValueError(f"{describe(source.paths)} has {said}{why}")
        return ListedPairs(lists, mixed(source.paths))


def chosen(row: Mapping[str, object], where: Where) -> bool:
    """Say whether a row has the wanted values. Raises ValueError naming the columns there are."""
    return all(str(row.get(column)) in values for column, values in texts(where).items())


def texts(where: Where) -> dict[str, tuple[str, ...]]:
    """Spell the values of each column as texts, in which files hold them."""
    return {column: tuple(map(str, v if isinstance(v, tuple | list) else (v,))) for column, v in where.items()}
