"""The softmax losses where only rows count, in one pass over S, as a row is whole in its chunk (6 MND).

Letters as in kernels.tiles.gradient, with b = 0. A chunk of rows goes through these steps, and nothing waits:
 1. lse_tiles sums E = exp2(s - reference) of each row, over the negatives alone for `each`, and leaves E in scratch.
 2. G_ij = u_i E_ij for all that is no positive, u_i = a_i 2^(reference - row_i), for `each` with a_i B_i/n_i in the
    place of a_i. u is known now, and meets the products, not E:  G Y = diag(u) E Y,  G^T X = E^T (diag(u) X).
 3. gradient_tiles writes the tiles that may hold positives once more, G / u, rounded after the subtraction as ever. In
    the order of their ids (kernels.tiles.order) these are a band along the diagonal.
 4. Where a row of the chunk lies too far below the common reference (kernels.tiles.lse, step 4), its log-sum-exps and
    all of G are formed again, exactly, with u_i = a_i. These passes are launched, and return where they are not needed.

Trap: u spans as many powers of two as rows lie below the reference, 100. bfloat16 and float32 hold that, float16 does
not, and takes two passes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kernels.means import Means, dot
from kernels.tiles.gradient import EACH, LOGSUM, MEAN
from kernels.tiles.operands import LOG2_E, Blocks
from kernels.tiles.softmax_launch import Gradient, SoftmaxTiles
from kernels.tiles.tile import ALL, NEGATIVES, POSITIVES

if TYPE_CHECKING:
    from jaxtyping import Float

KINDS = {"mean": MEAN, "logsum": LOGSUM, "each": EACH}
LN_2 = math.log(2.0)
FAINT = 1e-30
"""a weight B_i of a row's negatives that is taken for none: dividing by a smaller one could leave float32"""


class RowsOnly(NamedTuple):
    """Holds a loss of rows alone and the products of its gradient, float32, not multiplied by t."""

    value: Float[Tensor, ""]
    """of this rank's rows, not yet held to its floor"""
    GY: Float[Tensor, "m d"] | None
    GX: Float[Tensor, "n d"] | None


def solve(tiles: SoftmaxTiles, positives: str, w: Means, for_y: bool, for_x: bool) -> RowsOnly:
    """Computes a loss whose columns have no weight (w.b = 0), and the wanted ones of (G Y, G^T X)."""
    kind = KINDS[positives]
    each, logsum = positives == "each", positives == "logsum"
    config = tiles.choose_gradient_config(kind)
    row = tiles.t.new_full((tiles.M,), -math.inf)
    row_plus = tiles.lse(POSITIVES).row if logsum else row
    none, nowhere = torch.zeros_like(w.b), torch.full_like(w.b, -math.inf)  # a column's weight and its log-sum-exp
    values: list[Tensor] = []

    def write_gradient(start: int, stop: int, g: Blocks) -> Tensor:
        chunk, at = (start, stop), slice(start, stop)
        always = torch.ones_like(tiles.x_key[:1])
        pull = (w.an, none) if positives == "mean" else None
        how = (NEGATIVES if each else ALL, pull)
        pulls = tiles.reduce_chunk(config, chunk, row, None, *how, shifted=True, needed=always, store=g)
        # Step 4, for this chunk alone
        exact = tiles.find_exact(row[at], None, at)
        slow = torch.full_like(row, -math.inf)
        slow_pulls = tiles.reduce_chunk(config, chunk, slow, None, *how, shifted=False, needed=exact)
        row[at] = torch.where(exact != 0, slow[at], row[at])
        if positives == "mean":
            values.append(-torch.where(exact != 0, slow_pulls, pulls).sum() / LOG2_E)
        raised = torch.where(exact != 0, 1.0, tiles.raise_to_reference(row))
        if each:
            B, _, value = tiles.sum_each_chunk(config, chunk, w.an, none, row, nowhere)
            values.append(value)
            share = torch.zeros_like(row)
            share[at] = B.masked_fill(B < FAINT, 0.0)
            # E is met by B here, and the positives' share of G, which does not know B, is divided by it
            u = w.an * share * raised
        else:
            u = w.a * raised
        p = row_plus - math.log2(w.kept) + raised.log2() if logsum else torch.where(u > 0, w.an / u, 0.0)
        q = -nowhere if logsum else none
        gradient = Gradient(torch.ones_like(u), none, row, nowhere, kind, p, q)
        tiles.write_gradient(config, chunk, g, gradient, gradient, exact, near=True)
        return u[at]

    GY, GX = tiles.multiply_by_chunks(config, write_gradient, None, for_y, for_x)
    if positives == "mean":
        values.append(dot(w.a, row * LN_2))
    if logsum:
        # Without a positive the difference is infinite or no number; rounding may take it below 0
        rows = torch.where(w.a > 0, (row - row_plus) * LN_2, 0.0).clamp_min(0.0)
        values.append(w.a @ rows + (1 - w.kept) * dot(w.a, row_plus * LN_2))
    return RowsOnly(torch.stack(values).sum(), GY, GX)
