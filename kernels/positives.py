"""The positives as a linear operator that is never written out: P [M, N], P_ij = 1 where the ids are equal.

Sums over positives are segment sums: with s_g the sum of the rows z_j whose id is g, (P z)_i = s_g(i). That is O((M+N) D)
for any number of positives, where a mask costs O(M N). What is not linear in the logits (`logsum`, `each`) asks for the
pairs of a few rows at a time instead.

Trap: a pair that is one and the same item (`self_column`) is no positive. The segment sums contain it, so it is taken out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag


class _Segments:
    """Items sorted by their segment: `order[first[g] : first[g] + count[g]]` are the items of segment g."""

    def __init__(self, segment: Int64[Tensor, " n"], num: int):
        self.count = torch.bincount(segment, minlength=num)
        self.first = self.count.cumsum(0) - self.count
        self.order = segment.argsort(stable=True)

    def sums(self, z: Float[Tensor, "n d"], weight: Float[Tensor, " n"] | None) -> Float[Tensor, "g d"]:
        """Sum of weight * z over each segment. embedding_bag adds in a fixed order on every device; index_add_ does not."""
        weight = None if weight is None else weight[self.order]
        return embedding_bag(self.order, z, self.first, mode="sum", per_sample_weights=weight)


class Positives:
    """P for given ids; `self_column[i]` is the column that row i itself is, -1 for none."""

    def __init__(
        self,
        x_ids: Int64[Tensor, " m"],
        y_ids: Int64[Tensor, " n"],
        self_column: Int64[Tensor, " m"] | None,
        dtype: torch.dtype,
    ):
        # Plain CLIP: each sample is the one positive of itself, P is the identity and costs nothing.
        self.identity = self_column is None and torch.equal(x_ids, y_ids) and _distinct(x_ids)
        if self.identity:
            self.row_counts = self.column_counts = torch.ones(len(x_ids), dtype=dtype, device=x_ids.device)
            self._x_segment = self._y_segment = None
            return
        values, segment = torch.unique(torch.cat([x_ids, y_ids]), return_inverse=True)
        self._x_segment, self._y_segment = segment[: len(x_ids)], segment[len(x_ids) :]
        self._x, self._y = _Segments(self._x_segment, len(values)), _Segments(self._y_segment, len(values))
        self._self_column = self_column
        row_counts = self._y.count[self._x_segment]
        column_counts = self._x.count[self._y_segment]
        if self_column is not None:
            rows = (self_column >= 0).nonzero().squeeze(1)
            rows = rows[x_ids[rows] == y_ids[self_column[rows]]]
            self._self_pairs = rows, self_column[rows]
            row_counts[rows] -= 1
            column_counts[self._self_pairs[1]] -= 1
        self.row_counts: Float[Tensor, " m"] = row_counts.to(dtype)
        self.column_counts: Float[Tensor, " n"] = column_counts.to(dtype)

    def rows(self, z: Float[Tensor, "n d"], weight: Float[Tensor, " n"] | None = None) -> Float[Tensor, "m d"]:
        """P (weight * z)"""
        if self.identity:
            return z if weight is None else weight[:, None] * z
        out = self._y.sums(z, weight).index_select(0, self._x_segment)
        if self._self_column is not None:
            rows, columns = self._self_pairs
            out.index_add_(0, rows, -_weighted(z, weight, columns))
        return out

    def columns(self, z: Float[Tensor, "m d"], weight: Float[Tensor, " m"] | None = None) -> Float[Tensor, "n d"]:
        """P^T (weight * z)"""
        if self.identity:
            return z if weight is None else weight[:, None] * z
        out = self._x.sums(z, weight).index_select(0, self._y_segment)
        if self._self_column is not None:
            rows, columns = self._self_pairs
            out.index_add_(0, columns, -_weighted(z, weight, rows))
        return out

    def pairs(self, rows: slice) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"]]:
        """The positive pairs (i, j) of a slice of rows, sorted by i; i counts from the slice's start."""
        device = self.row_counts.device
        if self.identity:
            columns = torch.arange(rows.start, rows.stop, device=device)
            return columns - rows.start, columns
        segment = self._x_segment[rows]
        count = self._y.count[segment]
        row = torch.repeat_interleave(count)
        # the k-th pair of a row is the k-th item of its segment
        first = self._y.first[segment] - (count.cumsum(0) - count)
        column = self._y.order[first[row] + torch.arange(len(row), device=device)]
        if self._self_column is None:
            return row, column
        other = column != self._self_column[rows][row]
        return row[other], column[other]


def _distinct(ids: Int64[Tensor, " n"]) -> bool:
    ordered = ids.sort().values
    return bool((ordered[1:] != ordered[:-1]).all())


def _weighted(z: Tensor, weight: Tensor | None, index: Tensor) -> Tensor:
    return z[index] if weight is None else weight[index, None] * z[index]
