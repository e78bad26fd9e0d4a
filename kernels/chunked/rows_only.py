"""The softmax losses where only rows count: one pass over S gives value and gradient, as a row is whole in its chunk.

Letters and losses as in kernels.chunked.softmax, with b = 0:
 1. With top_i the largest logit of row i,  E_ij = exp(S_ij - top_i)  and  total_i = sum_j E_ij,
    row_i = top_i + log total_i.  Nothing leaves float32, whatever S is: no logit needs a reference, and total_i >= 1.
 2. G_ij = a_i exp(S_ij - row_i) = (a_i / total_i) E_ij,  to which the positives are added, from their own logits.
E takes the place of S, and G that of E: S is formed once, and nothing is computed of a column (6 MND).

Trap: over a group the value is complete only after its reduction, which every rank must join whatever its data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.chunked.elementwise import exp_, softplus, split_blocks
from kernels.chunked.logits import Logits, Operands, Products
from kernels.chunked.positives import OneToOne, Positives
from kernels.chunked.softmax import Solution, softmax_by_segment
from kernels.distributed import sum_over
from kernels.linear import attract
from kernels.means import Means, dot

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch.distributed import ProcessGroup


def solve(
    positives: str, logits: Logits, P: Positives | OneToOne, w: Means, operands: Operands, group: ProcessGroup | None
) -> tuple[Float[Tensor, ""], Products]:
    """Computes a loss of rows alone (w.b = 0), and the products of its gradient with the operands, in one pass over S.

    Value and gradient come from the same chunk, so the value is complete only when the products are.
    """
    loss = begin(positives, logits, P, w, group)
    products = logits.multiply_gradient(loss.gradient, *operands)
    if loss.finish is not None:
        loss.finish(*products)
    return loss.value(), products


def begin(positives: str, logits: Logits, P: Positives | OneToOne, w: Means, group: ProcessGroup | None) -> Solution:
    """Makes a loss of rows alone, whose gradient needs no pass before it."""
    # Listing positives needs their logits; `mean` can do without where they are many, the others cannot
    listed = P.few or positives != "mean"
    attraction, finish = torch.zeros_like(logits.t), None
    if not listed:
        attraction, finish = attract(logits.left, logits.right, P, w.an, w.bm)
    value, none = -attraction, torch.empty(0, dtype=torch.int64, device=logits.t.device)

    def gradient(rows: slice, S: Tensor) -> Tensor:
        i, j = P.list_pairs(rows) if listed else (none, none)
        for drop in logits.find_dropped(rows, S)[:1]:
            S.masked_fill_(drop, -torch.inf)
        share = _LOSS[positives](S, i, j, w.a[rows], w.an[rows], w.kept)
        with logits.in_turn(rows):
            value.add_(share)
        return S

    # Rounding may take it below its floor; the exact value never is
    floor = w.floor if positives == "mean" or w.kept < 1 else 0.0
    return Solution(lambda: sum_over(group, value)[0].clamp_min(floor), gradient, finish)


# Each of these is given the logits S of some rows, their positives as pairs (i, j), a and a/n of these rows, and what
# label smoothing leaves to the positives, which in `mean` is within a/n.
# It returns sum_i a_i l_i, and leaves G in the place of S. So the positive logits s are read first, and what has to be
# subtracted for them is written last.


def _mean(
    S: Float[Tensor, "m n"], i: Int64[Tensor, " k"], j: Int64[Tensor, " k"], a: Tensor, an: Tensor, kept: float
) -> Float[Tensor, ""]:
    s = S[i, j]
    row, total = _exponentiate(S)
    S.mul_((a / total)[:, None])
    S[i, j] -= an[i]
    return dot(a, row) - an[i] @ s


def _logsum(
    S: Float[Tensor, "m n"], i: Int64[Tensor, " k"], j: Int64[Tensor, " k"], a: Tensor, an: Tensor, kept: float
) -> Float[Tensor, ""]:
    s = S[i, j]
    positive, share = softmax_by_segment(s, i, S.shape[0])
    row, total = _exponentiate(S)
    S.mul_((a / total)[:, None])
    S[i, j] -= a[i] * share * kept
    # Without a positive the difference is infinite or no number; rounding may take it below 0
    return a @ torch.where(a > 0, row - positive, 0.0).clamp_min(0.0) + (1 - kept) * dot(a, positive)


def _each(
    S: Float[Tensor, "m n"], i: Int64[Tensor, " k"], j: Int64[Tensor, " k"], a: Tensor, an: Tensor, kept: float
) -> Float[Tensor, ""]:
    s = S[i, j]
    S[i, j] = -torch.inf  # the log-sum-exp is that of the negatives
    row, total = _exponentiate(S)
    from_row = row[i] - s
    pull = an[i] * from_row.sigmoid()
    # Summed over a row's positives it is a_i B_i/n_i, with which the row's negatives are weighted
    S.mul_((torch.zeros_like(a).index_add_(0, i, pull) / total)[:, None])
    S[i, j] = -pull
    return an[i] @ softplus(from_row)


_LOSS = {"mean": _mean, "logsum": _logsum, "each": _each}


def _exponentiate(S: Float[Tensor, "m n"]) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Returns (row, total) of step 1, and writes E into S; where everything is excluded they are -inf, 1 and 0."""
    tops, totals = [], []
    # The maximum, the subtraction, the exponential and the sum pass over a block while it is in the cache
    for (block,) in split_blocks(S):
        top = block.amax(1) if block.shape[1] else block.new_full((len(block),), -torch.inf)
        top = top.clamp_min_(torch.finfo(S.dtype).min)  # -inf - -inf would be NaN
        totals.append(exp_(block.sub_(top[:, None])).sum(1))
        tops.append(top)
    top, total = (v[0] if len(v) == 1 else torch.cat(v) for v in (tops, totals))
    return top + total.log(), total.clamp_min_(1.0)
