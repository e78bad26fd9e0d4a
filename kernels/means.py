"""The weights of the row means and column means of a softmax loss, from the positives of each row and column."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kernels.distributed import sum_over

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch.distributed import ProcessGroup


class Means(NamedTuple):
    """Holds the weights of the two means: 0 where there is no positive, and for all columns when only rows count."""

    a: Float[Tensor, " m"]
    b: Float[Tensor, " n"]
    an: Float[Tensor, " m"]
    """a_i / n_i"""
    bm: Float[Tensor, " n"]
    """b_j / m_j, m_j counted in the strips of all ranks"""
    floor: Float[Tensor, ""] | float
    """sum_i a_i log n_i + sum_j b_j log m_j: the loss `mean` when all positives agree and no negative does"""
    kept: float = 1.0
    """the share of the target that label smoothing leaves to the positives"""

    def smooth(self, positives: str, smoothing: float) -> Means:
        """Leaves 1 - smoothing of the target to the positives; the rest of it is kernels.linear.smooth_labels.

        What is left of a loss without that rest has no floor.
        """
        if not smoothing:
            return self
        kept = 1 - smoothing
        if positives == "mean":
            return self._replace(kept=kept, an=self.an * kept, bm=self.bm * kept, floor=-math.inf)
        return self._replace(kept=kept, floor=-math.inf)


def weigh_means(
    row_count: Int64[Tensor, " m"],
    column_count: Int64[Tensor, " n"],
    row_weight: Float[Tensor, " m"],
    column_weight: Float[Tensor, " n"],
    symmetric: bool,
    group: ProcessGroup | None,
) -> Means:
    """Makes the weights from the positives of each row and, in this rank's strip, of each column.

    Nothing is read back to the host.
    """
    half = 0.5 if symmetric else 0.0
    n, (m,) = row_count, sum_over(group, column_count)
    a, b = row_weight * (n > 0), column_weight * (m > 0)
    # Rows are spread over the ranks, and their weights have to sum to 1 over all of them; every rank has all columns
    (total,) = sum_over(group, a.sum())
    tiny = torch.finfo(a.dtype).tiny  # no positive at all: 0 / tiny is 0, as the loss has to be
    a *= (1 - half) / total.clamp_min(tiny)
    b *= half / b.sum().clamp_min(tiny)
    n, m = n.clamp_min(1).to(a.dtype), m.clamp_min(1).to(a.dtype)
    (floor,) = sum_over(group, a @ n.log())
    return Means(a, b, a / n, b / m, floor + b @ m.log())


def dot(weight: Tensor, value: Tensor) -> Float[Tensor, ""]:
    """Sums weight * value, where a weight of 0 silences -inf."""
    return weight @ value.clamp_min(torch.finfo(value.dtype).min)
