"""Positives as int32 keys, which kernels compare, and sums over them; nothing is read back to the host.

A sum over the columns of one key is one bag of embedding_bag over the columns in the order of their keys, which adds in
that order every time. How many keys there are is not known here: every column has a bag, and all but the first of a key
have empty ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

if TYPE_CHECKING:
    from jaxtyping import Float, Int32, Int64

ABSENT_ROW, ABSENT_COLUMN = -1, -2
"""keys of items whose weight is 0; they differ, so that two absent items are no positive pair"""


@dataclass
class Silenced:
    """Holds the items of x or of y, absent ones as zeros; at least one row, as a rank's strip may be empty."""

    z: Float[Tensor, "n d"]
    weight: Float[Tensor, " n"]

    @classmethod
    def build(cls, z: Tensor, weight: Tensor | None) -> Silenced:
        """Silences the items whose weight is 0: whatever they hold, a kernel reads zeros."""
        if len(z) == 0:
            z, weight = z.new_zeros(1, z.shape[1]), z.new_zeros(1, dtype=torch.float32)
        if weight is None:
            return cls(z, z.new_ones(len(z), dtype=torch.float32))
        return cls(torch.where(weight[:, None] > 0, z, 0.0), weight.contiguous())


class Keys:
    """Turns ids into keys, counts each row's and column's positives, and sums over them.

    A key is the place of its id among all ids in order, so that tiles of neighbouring ids have narrow spans of keys.
    `itself`: the column that each row itself is, if any; of an empty strip, none.
    """

    def __init__(self, x_ids: Tensor, y_ids: Tensor, rows: Silenced, columns: Silenced, itself: Tensor | None):
        x_ids = x_ids if len(x_ids) else y_ids[:1]  # the absent row of an empty strip
        order = torch.cat([x_ids, y_ids]).sort().values
        self.of_x, self.of_y = (
            torch.searchsorted(order, ids.contiguous(), out_int32=True).masked_fill(side.weight <= 0, absent)
            for ids, side, absent in ((x_ids, rows, ABSENT_ROW), (y_ids, columns, ABSENT_COLUMN))
        )
        self.row_count, self.column_count = _count(self.of_x, self.of_y), _count(self.of_y, self.of_x)
        self._own: tuple[Tensor, Tensor] | None = None
        if itself is not None and len(itself) > 0:
            # An item with itself has equal keys, but is no positive; a column is at most one row's own
            same = (self.of_y[itself] == self.of_x).long()
            self._own = itself, same[:, None]
            self.row_count -= same
            self.column_count[itself] -= same

    def sum_per_row(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
        """Sums z over the positive columns of each row."""
        sums = _sum_by_key(z, self.of_y, self.of_x)
        if self._own is not None:
            itself, same = self._own
            sums -= z[itself] * same
        return sums

    def sum_per_column(self, z: Float[Tensor, "m d"]) -> Float[Tensor, "n d"]:
        """Sums z over the positive rows of each column."""
        sums = _sum_by_key(z, self.of_x, self.of_y)
        if self._own is not None:
            itself, same = self._own
            sums[itself] -= z * same
        return sums


def _count(keys: Int32[Tensor, " m"], among: Int32[Tensor, " n"]) -> Int64[Tensor, " m"]:
    """Counts how often each key is found among others."""
    order = among.sort().values
    return torch.searchsorted(order, keys, right=True) - torch.searchsorted(order, keys)


def _sum_by_key(
    z: Float[Tensor, "n d"], keys: Int32[Tensor, " n"], wanted: Int32[Tensor, " m"]
) -> Float[Tensor, "m d"]:
    """Sums the rows of z that have each of the wanted keys."""
    known, order = keys.sort(stable=True)
    at = torch.arange(len(keys), device=z.device)
    first, end = torch.searchsorted(known, known), torch.searchsorted(known, known, right=True)
    bags = embedding_bag(order, z, torch.where(first == at, at, end), mode="sum")
    place = torch.searchsorted(known, wanted).clamp_max_(len(keys) - 1)
    return bags[place] * (known[place] == wanted)[:, None]
