"""A problem without its absent items: what is left of both sides, and which of it are positives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from kernels.chunked.false_negatives import FalseNegatives
from kernels.chunked.logits import Logits
from kernels.chunked.positives import OneToOne, Positives
from kernels.chunked.present import Present
from kernels.problem import Problem

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


@dataclass(frozen=True)
class Contrast:
    """Holds the rows and columns of a problem that are present, and their positives."""

    problem: Problem
    rows: Present
    columns: Present
    itself: Int64[Tensor, " m"] | None
    """the column that each of these rows itself is, -1 for none"""
    P: Positives | OneToOne

    def make_logits(self, x: Float[Tensor, "m d"], y: Float[Tensor, "n d"]) -> Logits:
        """Makes the logits of these features of the present items: their own, or a prefix of them."""
        problem, r, c = self.problem, self.rows.log_weight, self.columns.log_weight
        return Logits(
            x, y, problem.scale,
            bias=problem.bias, self_column=self.itself, log_weights=None if r is None or c is None else (r, c),
            false_negatives=self._find_false_negatives(x, y), hardness=problem.hardness, list_pairs=self.P.list_pairs,
        )  # fmt: skip

    def _find_false_negatives(self, x: Float[Tensor, "m d"], y: Float[Tensor, "n d"]) -> FalseNegatives | None:
        """Makes what finds false negatives, by the logits themselves where they are a positive scale times cosines."""
        problem, P = self.problem, self.P
        if problem.false_negative_margin is None:
            return None
        if problem.x_guide is not None and problem.y_guide is not None:
            guides = self.rows.select(problem.x_guide), self.columns.select(problem.y_guide)
            return FalseNegatives(*guides, None, P, problem)
        t = float(problem.scale)
        scaled = t > 0 and problem.log_weights is None and not problem.hardness
        return FalseNegatives(x, y, t if scaled else None, P, problem)
