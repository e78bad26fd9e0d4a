"""What a loss computes with: the items that are present, as float32 (float64 stays what it is).

A weight of 0 means absent. Absent items are taken out here, before anything else, so that nothing of them (not even a
NaN) can reach a loss.

Trap: without them, columns have other numbers; `find_self_columns` is the one place that knows both.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


class Present:
    """Holds the items of x or of y that are present (weight > 0), in the accumulation dtype."""

    def __init__(
        self,
        z: Float[Tensor, "n d"],
        ids: Int64[Tensor, " n"],
        weight: Tensor | None,
        log_weight: Tensor | None,
        dtype: torch.dtype,
    ):
        self.num, self.uniform, self.kept = z.shape[0], weight is None, None
        self.z: Float[Tensor, "k d"] = z.to(dtype)
        self.ids: Int64[Tensor, " k"] = ids
        self.log_weight: Float[Tensor, " k"] | None = log_weight
        if weight is None:
            return
        weight = weight.to(dtype)
        # Which are present is read back to the host, as the number of rows to compute with depends on it. That is why
        # this backend makes a GPU wait, and why the Triton kernels leave absent items where they are
        if not (present := weight > 0).all():
            self.kept = present.nonzero().squeeze(1)
            self.z, self.ids, weight = self.z[self.kept], ids[self.kept], weight[self.kept]
            self.log_weight = None if log_weight is None else log_weight[self.kept]
        self.weight = weight

    @cached_property
    def weight(self) -> Float[Tensor, " k"]:
        """Returns the weights of the present items, ones where none were given."""
        return self.z.new_ones(self.num)

    def select(self, z: Float[Tensor, "n e"]) -> Float[Tensor, "k e"]:
        """Selects the rows of another matrix that are present, in the same dtype."""
        return z.to(self.z.dtype) if self.kept is None else z[self.kept].to(self.z.dtype)

    def restore_absent(self, gradient: Float[Tensor, "k d"] | None) -> Float[Tensor, "n d"] | None:
        """Spreads a gradient over all items, with 0 for those that are absent."""
        if gradient is None or self.kept is None:
            return gradient
        return gradient.new_zeros(self.num, gradient.shape[1]).index_copy_(0, self.kept, gradient)


def find_self_columns(rows: Present, columns: Present, x_offset: int) -> Int64[Tensor, " m"]:
    """Finds which column each row itself is, counted among the columns that are present; -1 where it is absent."""
    column = rows.kept if rows.kept is not None else torch.arange(rows.num, device=rows.z.device)
    column = column + x_offset
    if columns.kept is None:
        return column
    place = torch.full((columns.num,), -1, device=column.device)
    place[columns.kept] = torch.arange(columns.kept.shape[0], device=column.device)
    return place[column]
