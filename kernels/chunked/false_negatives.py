"""What is nearer than the positives leaves the denominators, as it may be one: GISTEmbed (arXiv 2402.16829), by chunks.

With c_ij the cosine of row i and column j (the features' own, or a guide's), and c_i the mean of it over the positives
of row i, every other column with c_ij > c_i + margin leaves row i's denominator; a relative margin is times |c_i|. A
column drops rows in the same way, by the mean over its own positives, so that a pair may leave one of its two
denominators and stay in the other. What is dropped is decided by numbers that get no gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kernels.chunked.positives import OneToOne, Positives
from kernels.linear import limit_cosines
from kernels.problem import Problem

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Dropped = tuple["Bool[Tensor, 'rows n']", "Bool[Tensor, 'rows n']"]
"""which pairs of a chunk leave the denominators of their rows, and which those of their columns"""


class FalseNegatives:
    """Finds the false negatives of a chunk of rows; positives never are."""

    def __init__(
        self,
        x: Float[Tensor, "m d"],
        y: Float[Tensor, "n d"],
        t: float | None,
        P: Positives | OneToOne,
        problem: Problem,
    ):
        """Takes what judges as x and y; t is the scale where S is t times their cosine, None where it is not."""
        self._x, self._y, self._t, self._P = x, y, t, P
        self._row_limit, self._column_limit = limit_cosines(x, y, P, problem)

    def find(self, rows: slice, S: Float[Tensor, "rows n"]) -> Dropped:
        """Returns what is dropped from these rows of the logits S."""
        if self._t is None:
            cosine, t = self._x[rows] @ self._y.T, 1.0
        else:
            cosine, t = S, self._t
        pairs = self._P.list_pairs(rows)
        from_rows, from_columns = cosine > t * self._row_limit[rows, None], cosine > t * self._column_limit
        from_rows[pairs] = from_columns[pairs] = False
        return from_rows, from_columns
