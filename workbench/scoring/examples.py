"""The raw examples behind one side of a split, which an evaluator hands to `Context.embed`.

The trap: `raw` may decode its images on access, so rows are chosen without reading them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from workbench.types import Context, Items, Side, Split, View, Views


class Subset(Sequence[Any]):
    """Chosen rows of a sequence, each read only when it is asked for."""

    def __init__(self, raw: Sequence[Any], rows: list[int]) -> None:
        self.raw, self.rows = raw, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Any: ...
    @overload
    def __getitem__(self, at: slice) -> Subset: ...
    def __getitem__(self, at: int | slice) -> Any:
        return Subset(self.raw, self.rows[at]) if isinstance(at, slice) else self.raw[self.rows[at]]


@dataclass(frozen=True)
class Examples:
    """n raw items of every member of a side, and the ids that link them to other sides."""

    side: Side
    raw: dict[str, Sequence[Any]]
    ids: Int64[Tensor, " n"]
    targets: dict[str, Tensor]
    """labels of the first member's items"""
    samples: Int64[Tensor, " n"] | None = None
    """the sample that each first member's item is part of; None: each id is one"""
    left_out: int = 0
    """items of the first member that are not here, as some other member has none for them"""

    @staticmethod
    def of(split: Split, side: Side) -> Examples:
        """Collect the examples of a side, in the order of its first member.

        Where the split does not pair its rows, each item of the first member goes with the first item of its own
        sample of every other, as in training, or else with the first of its id; those that lack one are left out.

        Raises ValueError when the split lacks a member, or no id has an item of every member.
        """
        if missing := [m for m in side.members if m not in split.items]:
            have = ", ".join(split.items)
            raise ValueError(f"side '{side}' needs {', '.join(missing)}: this split has {have}")
        items = {m: split.items[m] for m in side.members}
        if len(items) > 1 and not split.paired:
            return _joined(side, items)
        first = items[side.members[0]]
        assert all(item.ids.equal(first.ids) for item in items.values()), "paired rows belong to one sample"
        samples = torch.arange(len(first)) if split.paired else first.samples
        return Examples(side, {m: item.raw for m, item in items.items()}, first.ids, first.targets, samples)

    def take(self, rows: Int64[Tensor, " m"]) -> Examples:
        """Keep these rows, in this order, without reading them."""
        raw: dict[str, Sequence[Any]] = {m: Subset(x, rows.tolist()) for m, x in self.raw.items()}
        samples = None if self.samples is None else self.samples[rows]
        targets = {name: t[rows] for name, t in self.targets.items()}
        return Examples(self.side, raw, self.ids[rows], targets, samples, self.left_out)

    def embed(self, context: Context) -> View:
        """Embed them as their own side: float32 on the CPU, one view each."""
        return self.views(context, [self.side])[self.side]

    def views(self, context: Context, sides: Sequence[Side]) -> Views:
        """Embed the same rows as any sides that are made of these members."""
        return context.embed(self.raw, sides)


def _joined(side: Side, items: Mapping[str, Items]) -> Examples:
    lead, *others = items.values()
    kept = torch.stack([torch.isin(lead.ids, other.ids) for other in others]).all(0).nonzero().squeeze(1)
    if not len(kept):
        raise ValueError(
            f"side '{side}': none of {len(lead)} items of {side.members[0]} shares its id with an item of each of "
            f"{', '.join(side.members[1:])}: give matching items equal ids, or evaluate plain sides"
        )
    ids, raw = lead.ids[kept], {}
    for member, item in items.items():
        rows = kept if item is lead else partners(lead, item, kept)
        raw[member] = Subset(item.raw, rows.tolist())
    samples = None if lead.samples is None else lead.samples[kept]
    targets = {name: labels[kept] for name, labels in lead.targets.items()}
    return Examples(side, raw, ids, targets, samples, len(lead) - len(kept))


class Linked(Protocol):
    """Items or examples that ids link to others, and samples more closely where several samples share an id."""

    @property
    def ids(self) -> Int64[Tensor, " n"]: ...
    @property
    def samples(self) -> Int64[Tensor, " n"] | None: ...


def partners(lead: Linked, other: Linked, rows: Int64[Tensor, " m"]) -> Int64[Tensor, " m"]:
    """Find for these rows of the lead the first of their own sample, else the first of their id, which is there."""
    of_id = _first_rows(other.ids, lead.ids[rows])
    if lead.samples is None or other.samples is None:
        return of_id
    own = torch.isin(lead.samples[rows], other.samples)
    of_id[own] = _first_rows(other.samples, lead.samples[rows][own])
    return of_id


def _first_rows(ids: Int64[Tensor, " n"], wanted: Int64[Tensor, " m"]) -> Int64[Tensor, " m"]:
    """Find the first row of each of the wanted ids, all of which are there."""
    known, first = np.unique(ids.numpy(), return_index=True)
    return torch.from_numpy(first[np.searchsorted(known, wanted.numpy())])


def one_class_of_each(labels: Tensor, name: str) -> Int64[Tensor, " n"]:
    """Return labels that are a class of each item. Raises ValueError for several classes, and for numbers."""
    if labels.is_floating_point():
        raise ValueError(f"label '{name}' is a number, and this evaluator needs classes: name another label")
    if labels.ndim == 1:
        return labels
    raise ValueError(
        f"label '{name}' is several classes of each item (many: true), and this evaluator needs one: name another label"
    )
