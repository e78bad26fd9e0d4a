"""Batches of a table whose items come again and again, in ever new combinations: each is read and transformed once.

A thousand pictures and two hundred sounds make a hundred thousand triples. Read row by row, each would be decoded
hundreds of times, which costs more than small towers do; kept as tensors, a batch is a choice of their rows. Batches
are bitwise those of `Feed.load`.

The trap: what is transformed once looks alike for ever. A transform that draws (a crop, a mask, the gain of a sound)
would show one draw only, so it is refused; whoever wants variety puts variants of the items into the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int64
from numpy import ndarray
from torch import Tensor

from workbench.errors import BadSample
from workbench.loading.batching import prepare
from workbench.loading.feed import Feed
from workbench.loading.fields import Fields
from workbench.loading.table import ENOUGH, Part, Table
from workbench.types import Batch, Modality, Sample


@runtime_checkable
class KnowsRepeats(Protocol):
    """A table that can tell, without reading them one by one, which of its cells are equal."""

    def repeats(self, column: str) -> tuple[Int64[ndarray, " n"], Int64[ndarray, " d"]]:
        """Return for each row which of d distinct cells it has, and the first row of each."""
        ...


class Kept(NamedTuple):
    """The distinct items of a modality, and which of them each row has."""

    inputs: Tensor  # d x 1 x ...
    valid: Bool[Tensor, "d 1"]
    item: Int64[Tensor, " n"]


class Rows(NamedTuple):
    """A training table as batches are made of it."""

    table: Table
    fields: Fields
    modalities: Mapping[str, Modality]
    ids: Int64[ndarray, " n"]


def load_kept(data: Rows, feed: Feed, start: int) -> Iterator[Batch]:
    """Give endless batches from optimizer step `start` on, of rows whose items are kept in memory.

    Raises ValueError for a field of several items a sample, a transform that draws, and an item that cannot be read.
    """
    table = data.table
    modalities = feed.encoded(data.modalities)
    if several := [name for name, modality in modalities.items() if modality.count > 1]:
        raise ValueError(f"keep: a sample shows several items of '{several[0]}': leave keep out, or show one")
    kept = {name: keep(data, name, table, feed) for name in modalities}
    _refuse_incomplete(data, table, kept)
    ids = torch.from_numpy(data.ids)
    for _, indices in feed.rows(start, len(table)):
        rows = torch.from_numpy(indices)
        batch = {name: found.item[rows] for name, found in kept.items()}
        yield Batch(
            {name: kept[name].inputs[items] for name, items in batch.items()},
            {name: kept[name].valid[items] for name, items in batch.items()},
            ids[rows],
        )


def keep(data: Rows, name: str, table: Table, feed: Feed) -> Kept:
    """Read and transform the distinct items of a field. Raises ValueError as `load_kept` does."""
    item, first = repeats(table, name)
    found = [_item(data, name, table, int(row), feed) for row in first]
    there = [x for x in found if x is not None]
    if not there:
        raise ValueError(f"no row has any '{name}': leave it out of the encoders, or name another column")
    for row, x in zip(first.tolist(), found, strict=True):  # all: a long sound is cropped at random, a short one is not
        again = _item(data, name, table, row, feed, epoch=1)
        if x is not None and again is not None and not x.equal(again):
            raise ValueError(
                f"keep: each item is transformed once, and the transform of '{name}' draws anew each time: switch that "
                f"off (model.encoders.{name}.augment: none), or leave keep out"
            )
    filler = torch.zeros_like(there[0])
    inputs = torch.stack([filler if x is None else x for x in found])
    return Kept(inputs[:, None], torch.tensor([[x is not None] for x in found]), torch.from_numpy(item))


def _refuse_incomplete(data: Rows, table: Table, kept: Mapping[str, Kept]) -> None:
    """Raise ValueError for the first row that lacks a required modality, or has fewer than two."""
    has = {name: found.valid[found.item, 0] for name, found in kept.items()}
    bad = torch.stack([*has.values()]).sum(0) < ENOUGH
    for name, there in has.items():
        bad |= ~there if data.fields[name].required else torch.zeros_like(there)
    if bad.any():
        row = int(bad.nonzero()[0])
        held = ", ".join(name for name, there in has.items() if there[row]) or "nothing"
        raise ValueError(
            f"keep: {table.name(row)} has only {held}, and so {int(bad.sum())} of {len(table)} rows are bad samples: "
            "remove them, or leave keep out"
        )


def repeats(table: Table, column: str) -> tuple[Int64[ndarray, " n"], Int64[ndarray, " d"]]:
    """Return for each row which distinct cell it has, and the first row of each; all differ where nobody knows."""
    if isinstance(table, Part):
        item, _ = repeats(table.table, column)
        _, first, own = np.unique(item[table.rows], return_index=True, return_inverse=True)
        return own, first
    if isinstance(table, KnowsRepeats):
        return table.repeats(column)
    return np.arange(len(table)), np.arange(len(table))


def distinct_cells(table: Table, column: str) -> Iterator[tuple[Sequence[object], str | Path]]:
    """Give the distinct cells of a column, each with the folder that its paths start from."""
    for row in repeats(table, column)[1].tolist():
        yield table.cells(row, column), table.root(row, column)


def _item(data: Rows, name: str, table: Table, row: int, feed: Feed, epoch: int = 0) -> Tensor | None:
    """Read the item of a row as a model input; None where its cell is empty. Raises ValueError."""
    try:
        raw = data.fields[name].read(table.cells(row, name), table.root(row, name))
        if len(raw) > 1:
            raise ValueError(f"it has {len(raw)} items of '{name}', of which each epoch would show another one")
        shown = Sample({name: raw}, row)
        inputs = prepare(table.name(row), shown, data.modalities, feed.transforms, (feed.seed, epoch, row))
    except (OSError, ValueError, BadSample) as error:
        raise ValueError(f"keep: {table.name(row)} cannot be kept ({error}): mend it, or leave keep out") from None
    return inputs[name][0] if raw else None
