"""Sources whose files are lists of rows: the settings that they share, beside those of all samples."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from workbench.loading.chosen_rows import Choice, ChosenRows, Where
from workbench.loading.fields import AudioField, ImageField, TextField
from workbench.loading.paths import Paths, describe, expand, missing, mixed
from workbench.loading.samples_in_lists import Listed, ListedSamples, lead_of


class ListSamples(ChosenRows):
    """Samples whose rows are in lists, which name their files.

    Args:
        path: the training lists: a file, a glob, braces, or a list of them.
        root: folder that relative paths start from; null: the folder of each list.
    """

    kind: str
    """what such a list is called"""
    holds: str
    """what has to be in one, in brackets"""
    example: str
    """where one may lie"""
    written = False
    """whether cells that are no texts are written as JSON"""

    def __init__(self, *, path: Paths, root: Path | None = None, **more: Any) -> None:
        super().__init__(path=path, **more)
        self.root = root
        self.lead = lead_of(self.declared)

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
