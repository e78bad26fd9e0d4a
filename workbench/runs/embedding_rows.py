"""The rows of a split as `wb embed` reads them, one by one: items, ids as the source has them, labels as words.

The trap: a row that is bad keeps its place, so that a training on the file draws the same samples as one on the source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from workbench.loading.captions import decode_text
from workbench.loading.cells import first_filled
from workbench.loading.feed import MapStyle
from workbench.loading.labels import Label, as_number, read_words
from workbench.loading.samples import Samples
from workbench.loading.streamed_samples import StreamedSamples
from workbench.loading.table import ID, Table, read_sample
from workbench.seeds import seed_for
from workbench.types import Data, Sample


@dataclass(frozen=True)
class Reading:
    """The rows of a split, one by one."""

    data: Data
    split: str
    table: Table | None
    """None of a data set that is no table: then its training samples are read"""
    _last: dict[int, Sample] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.data if self.table is None else self.table)

    def id(self, index: int) -> object:
        """Give the id as the source has it, by default the number of the row.

        Raises OSError and ValueError where it cannot be read, BadSample where only its sample has it.
        """
        if self.table is None:
            return self._sample(index).id
        if not self.named:
            return index
        cell = first_filled(self.table.cells(index, ID))
        return None if cell is None else decode_text(cell) if isinstance(cell, bytes) else str(cell)

    def items(self, index: int) -> Mapping[str, list[object]]:
        """Read the raw items of all fields. Raises BadSample."""
        if self.table is None:
            return self._sample(index).inputs
        assert isinstance(self.data, Samples)
        return read_sample(self.table, index, self.data.fields)

    def _sample(self, index: int) -> Sample:
        if index not in self._last:
            self._last.clear()
            assert isinstance(self.data, MapStyle)
            self._last[index] = self.data.sample(index, np.random.default_rng(seed_for("embed", index)))
        return self._last[index]

    def name(self, index: int) -> str:
        """Say what a person finds the row by."""
        return f"row {index}" if self.table is None else self.table.name(index)

    def labels(self, index: int) -> dict[str, object]:
        """Give the labels as words, a list of them where there may be many, or as numbers."""
        if self.table is None:
            return {}
        try:
            return {f"label {k}": _label(v, read_words(self.table, index, k)) for k, v in self.labelled.items()}
        except ValueError as error:
            raise ValueError(f"a label of {self.name(index)} is {error}") from None

    @property
    def labelled(self) -> Mapping[str, Label]:
        return self.data.labels if isinstance(self.data, Samples) else {}

    @property
    def named(self) -> bool:
        """Whether rows have ids of their own."""
        return isinstance(self.data, Samples) and self.data.id is not None


def _label(label: Label, words: list[str]) -> object:
    if label.many:
        return words
    if label.number:
        return as_number(words) if words else None
    return words[0] if len(words) == 1 else None


def open_rows(data: Data, split: str) -> Reading:
    """Open a split for reading by position. Raises ValueError where the data cannot do that."""
    if isinstance(data, StreamedSamples) and data.streaming:
        raise ValueError("rows are read by their positions, which streaming has not: --set streaming=false")
    if isinstance(data, Samples):
        if complaint := data.missing() if split == "train" else data.missing_held_out():
            raise ValueError(complaint)
        return Reading(data, split, data.rows(split))
    if split != "train" or not isinstance(data, MapStyle):
        raise ValueError(f"only the training split of such data can be embedded, and this is '{split}': leave --split")
    return Reading(data, split, None)
