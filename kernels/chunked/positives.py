"""The positives as a matrix that is never written out: P [M, N], P_ij = 1 where the ids are equal.

Products with P are segment sums: with s_g the sum of the rows y_j whose id is g, (P Y)_i = s_g(i). That is O((M + N) D)
for any number of positives, where a mask costs O(M N). Where there are few, or where a loss is not linear in the logits
(`logsum`, `each`), the pairs themselves are listed, those of a few rows at a time.

Trap: a pair that is one and the same item (`self_column`) is no positive. Segment sums contain it, so it is taken out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


FEW = 16
"""Positives are few when they are at most this many per item on average. Then they are read from the logits and
subtracted from their gradient one by one: as cheap as segment sums, and in the same arithmetic as the log-sum-exps."""


class Positives:
    """Multiplies with P, counts and lists it; `self_column[i]` is the column that row i itself is, -1 for none."""

    def __init__(self, x_ids: Int64[Tensor, " m"], y_ids: Int64[Tensor, " n"], self_column: Int64[Tensor, " m"] | None):
        # Both sides' ids are numbered together, so that a segment has the same number on either side
        ids, segment = torch.unique(torch.cat([x_ids, y_ids]), return_inverse=True)
        x_segment, y_segment = segment.split([x_ids.shape[0], y_ids.shape[0]])
        self._x, self._y = _Segments(x_segment, ids.numel()), _Segments(y_segment, ids.numel())
        self._self_column, self._latest = self_column, None
        self.row_count: Int64[Tensor, " m"] = self._y.count[x_segment]
        """positives of each row"""
        self.column_count: Int64[Tensor, " n"] = self._x.count[y_segment]
        """positives of each column"""
        if self_column is not None:
            row = (self_column >= 0).nonzero().squeeze(1)
            row = row[x_ids[row] == y_ids[self_column[row]]]
            self._self_row, self._self_col = row, self_column[row]
            self.row_count[row] -= 1
            self.column_count[self._self_col] -= 1
        self.few = int(self.row_count.sum()) <= FEW * segment.numel()

    def sum_per_row(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
        """Computes P z: for each row, the sum of z over its positive columns."""
        out = self._y.sum_segments(z).index_select(0, self._x.segment)
        if self._self_column is not None:
            out.index_add_(0, self._self_row, z[self._self_col], alpha=-1)
        return out

    def sum_per_column(self, z: Float[Tensor, "m d"]) -> Float[Tensor, "n d"]:
        """Computes P^T z: for each column, the sum of z over its positive rows."""
        out = self._x.sum_segments(z).index_select(0, self._y.segment)
        if self._self_column is not None:
            out.index_add_(0, self._self_col, z[self._self_row], alpha=-1)
        return out

    def list_pairs(self, rows: slice) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"]]:
        """Lists the positive pairs (i, j) of a slice of rows, sorted by i, which counts from the slice's start."""
        latest = self._latest  # read once, as another thread may ask for other rows
        if latest is None or latest[0] != rows:  # where there is one chunk, every pass asks for the same
            latest = self._latest = rows, self._find_pairs(rows)
        return latest[1]

    def _find_pairs(self, rows: slice) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"]]:
        segment = self._x.segment[rows]
        count = self._y.count[segment]
        row = torch.repeat_interleave(count)
        # The k-th pair of a row is the k-th item of its segment: where the segment begins, less where the row's pairs
        # begin, is what has to be added to a pair's number to find its column
        first = self._y.first[segment] - (count.cumsum(0) - count)
        column = self._y.order[first[row] + torch.arange(row.shape[0], device=row.device)]
        if self._self_column is None:
            return row, column
        other = column != self._self_column[rows][row]
        return row[other], column[other]


class OneToOne:
    """Stands for P = I: every item is the one positive of its own row, as in CLIP. Nothing is sorted or summed."""

    few = True

    def __init__(self, ids: Int64[Tensor, " n"]):
        self.row_count = self.column_count = torch.ones_like(ids)

    def sum_per_row(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Computes P z = z."""
        return z

    sum_per_column = sum_per_row

    def list_pairs(self, rows: slice) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"]]:
        """Lists the pairs (i, j) of a slice of rows; i counts from the slice's start."""
        column = torch.arange(rows.start, rows.stop, device=self.row_count.device)
        return column - rows.start, column


def find_positives(
    x_ids: Int64[Tensor, " m"], y_ids: Int64[Tensor, " n"], self_column: Int64[Tensor, " m"] | None
) -> Positives | OneToOne:
    """Finds the positives, by the short way where both sides have the same ids in the same order, each once."""
    if self_column is None and are_one_to_one(x_ids, y_ids):
        return OneToOne(x_ids)
    return Positives(x_ids, y_ids, self_column)


def are_one_to_one(x_ids: Int64[Tensor, " m"], y_ids: Int64[Tensor, " n"]) -> bool:
    """Says whether both sides have the same ids in the same order, each once."""
    return (x_ids is y_ids or torch.equal(x_ids, y_ids)) and _are_distinct(x_ids)


class _Answer(NamedTuple):
    """Remembers what was found of some ids."""

    ids: Tensor
    """a copy: of the ids themselves, whoever shares their memory could write into them unseen"""
    distinct: bool


_latest: _Answer | None = None


def _are_distinct(ids: Int64[Tensor, " n"]) -> bool:
    """Says whether each id is there once. All terms of an objective ask it of the same ids: these are sorted once."""
    global _latest
    answer = _latest  # one value, read and written whole: threads do not disturb one another
    if answer is None or answer.ids.device != ids.device or not torch.equal(answer.ids, ids):
        answer = _latest = _Answer(ids.clone(), torch.unique(ids).numel() == ids.numel())
    return answer.distinct


class _Segments:
    """Sorts items by their segment: `order[first[g] : first[g] + count[g]]` are the items of segment g."""

    def __init__(self, segment: Int64[Tensor, " n"], num: int):
        self.segment = segment
        self.count = torch.bincount(segment, minlength=num)
        self.first = self.count.cumsum(0) - self.count
        self.order = segment.argsort(stable=True)

    def sum_segments(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "g d"]:
        """Sums the rows of each segment, in a fixed order on every device (as index_add_ would not on CUDA)."""
        return embedding_bag(self.order, z, self.first, mode="sum")
