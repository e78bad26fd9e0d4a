"""Rows and columns in the order of their ids, so that positives lie along a diagonal and most tiles hold none.

A batch comes in any order, and with it the positives of 128 rows are spread over all tiles: every tile would have to
compare its ids, and what is computed of positives alone would be one more pass over S. In the order of their ids they
are in one tile of some hundred. Sorting moves (M + N) D numbers, and the gradients back; nothing waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.autograd import Gradients
from kernels.problem import Problem

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

OF_ROWS = ("x", "x_ids", "x_weight", "x_log_weight", "x_guide")
OF_COLUMNS = ("y", "y_ids", "y_weight", "y_log_weight", "y_guide")


@dataclass(frozen=True)
class Arranged:
    """Holds a problem whose items may have been sorted, and brings what is computed of it back to their own order."""

    problem: Problem
    """its x_offset is about the rows as they came, and `itself` stands in its place"""
    itself: Int64[Tensor, " m"] | None
    """the column that each row itself is; None where rows and columns are different items"""
    x_order: Int64[Tensor, " m"] | None = None
    y_order: Int64[Tensor, " n"] | None = None
    """the place of each item before it was sorted; None where nothing was"""

    def restore(self, gradients: Gradients) -> Gradients:
        """Returns the gradients of the items in the order in which they came."""
        dx, dy = (
            None if d is None else restore(d, order)
            for d, order in ((gradients.x, self.x_order), (gradients.y, self.y_order))
        )
        return gradients._replace(x=dx, y=dy)


def restore(values: Float[Tensor, " n ..."], order: Int64[Tensor, " n"] | None) -> Float[Tensor, " n ..."]:
    """Returns what belongs to sorted items in the order in which the items came."""
    if order is None:
        return values
    restored = torch.empty_like(values)
    restored[order] = values  # a permutation: no two writes meet
    return restored


def sort_by_ids(problem: Problem) -> Arranged:
    """Sorts rows and columns by their ids; those of one id stay in their order."""
    x_ids, y_ids = problem.ids
    x_order, y_order = (ids.sort(stable=True).indices for ids in (x_ids, y_ids))
    taken = {
        name: None if (values := getattr(problem, name)) is None else values[order]
        for names, order in ((OF_ROWS, x_order), (OF_COLUMNS, y_order))
        for name in names
    }
    itself = find_itself(problem)
    if itself is not None:
        # Where each column went, read at the columns that the sorted rows are
        itself = restore(torch.arange(len(y_order), device=y_order.device), y_order)[itself[x_order]]
    return Arranged(replace(problem, **taken), itself, x_order, y_order)


def keep_order(problem: Problem) -> Arranged:
    """Leaves a problem whose ids do not matter as it is."""
    return Arranged(problem, find_itself(problem))


def find_itself(problem: Problem) -> Int64[Tensor, " m"] | None:
    """Finds the column that each row itself is, None where rows and columns are different items."""
    if problem.self_offset is None:
        return None
    return torch.arange(problem.x_offset, problem.x_offset + len(problem.x), device=problem.x.device)
