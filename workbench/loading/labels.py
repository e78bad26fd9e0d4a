"""Labels of samples: a class, several of them, or a number. They reach probes, zero-shot and reports, never the loss.

The trap: a class that only a held-out split has is no class of the training data; it is unknown (-1), and not counted
as a wrong answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field, model_validator
from torch import Tensor

from workbench.errors import shorten
from workbench.loading.captions import decode_text, flat
from workbench.loading.cells import is_empty
from workbench.loading.paths import read_bytes
from workbench.loading.table import LABEL, Table
from workbench.recipe.section import Section
from workbench.types import Classes

MOST_CLASSES = 10**5
"""classes of a label: a column with more is one of names or numbers"""


class Label(Section):
    """A label of every sample; a bare word is the column that it is read from."""

    from_: str = Field(description="a column, a dotted key or a member of a tar (cls, json:genres)")
    many: bool = Field(default=False, description="a sample has several classes, or none")
    number: bool = Field(default=False, description="a number, and no class")
    classes: Path | tuple[str, ...] | None = Field(
        default=None,
        description="the names of the classes: a list, or a file with one in each line, in the order of their numbers; "
        "null: whatever the training rows have, in alphabetical order",
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return {"from": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_of_them(self) -> Label:
        if self.number and (self.many or self.classes):
            raise ValueError("a label is a number, or has classes, not both")
        return self


@dataclass(frozen=True)
class LabelReader:
    """Reads a label as numbers of classes, or as a number."""

    name: str
    label: Label
    classes: Classes | None
    """None of a number"""

    @staticmethod
    def of(name: str, label: Label, train: Table) -> LabelReader:
        """Find the classes. Raises ValueError where there are too many of them, or none."""
        if label.number:
            return LabelReader(name, label, None)
        if label.classes is None:
            names = sorted({word for row in range(len(train)) for word in read_words(train, row, name)})
        elif isinstance(label.classes, Path):
            names = read_names(label.classes)
        else:
            names = list(label.classes)
        if not names:
            raise ValueError(f"label '{name}': no training row has one in '{label.from_}'")
        if len(names) > MOST_CLASSES:
            raise ValueError(f"label '{name}' has {len(names):,} classes: is it a number? Then say number: true")
        return LabelReader(name, label, Classes(tuple(names), tuple((_spelled(each),) for each in names)))

    def read(self, table: Table, rows: Sequence[int]) -> Tensor:
        """Read the labels of some rows: classes [n], -1 where unknown; bool [n, classes] of `many`; numbers [n], NaN
        where unknown. Raises ValueError for what is no number."""
        if self.classes is None:
            # seconds of an epoch, or cents of a price, are more than float32 tells apart
            return torch.tensor([self._number(table, row) for row in rows], dtype=torch.float64)
        places = {name: place for place, name in enumerate(self.classes.names)}
        found = [[self._place(word, places) for word in read_words(table, row, self.name)] for row in rows]
        if not self.label.many:
            return torch.tensor([each[0] if len(each) == 1 else -1 for each in found], dtype=torch.int64)
        values = torch.zeros(len(rows), len(places), dtype=torch.bool)
        for row, each in enumerate(found):
            values[row, [place for place in each if place >= 0]] = True
        return values

    def _place(self, word: str, places: dict[str, int]) -> int:
        if word in places:
            return places[word]
        numbered = self.label.classes is not None and word.isdecimal() and int(word) < len(places)
        return int(word) if numbered else -1

    def _number(self, table: Table, row: int) -> float:
        """Read a number. Raises ValueError for anything else, for several of them and for infinity."""
        try:
            return as_number(read_words(table, row, self.name))
        except ValueError as error:
            raise ValueError(f"label '{self.name}' of {table.name(row)} is {error}") from None


def as_number(words: Sequence[str]) -> float:
    """Read a label that is a number; NaN where there is none. Raises ValueError for anything else, and for several."""
    if not words:
        return math.nan
    with suppress(ValueError):
        if len(words) == 1 and not math.isinf(number := float(words[0])):
            return number
    raise ValueError(f"{'no number' if len(words) == 1 else 'several'}: '{shorten(', '.join(words), 40)}'")


def read_names(file: Path) -> list[str]:
    """Read the names of classes, one a line; some may be alike, as ImageNet's. Raises OSError and ValueError."""
    names = [line.strip() for line in decode_text(read_bytes(file.expanduser())).split("\n")]
    return names if names[-1] else names[:-1]


def read_words(table: Table, row: int, name: str) -> list[str]:
    """Spell the classes of a row; what cannot be read is unknown."""
    try:
        cells = flat(table.cells(row, LABEL + name))
    except (OSError, ValueError):
        return []
    return [_word(cell) for cell in cells if not is_empty(cell)]


def _word(cell: object) -> str:
    if isinstance(cell, bytes):
        return decode_text(cell).strip()
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def _spelled(name: str) -> str:
    """Write a class as people say it."""
    return name.replace("_", " ")
