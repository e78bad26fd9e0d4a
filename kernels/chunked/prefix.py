"""One prefix of the dimensions: its logits, made of the products R, and their gradient, brought back to R.

Letters and steps as in kernels.chunked.prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.autograd import Wanted
from kernels.chunked.contrast import Contrast
from kernels.chunked.elementwise import split_blocks
from kernels.linear import Finish

if TYPE_CHECKING:
    from jaxtyping import Float

TINY = 1e-12
"""what torch.nn.functional.normalize divides shorter rows by, of which it then differentiates no length"""
Weights = tuple[Tensor, Tensor]
"""(w, v): with what G_ij still has to be multiplied, w_i v_j"""


class Prefix:
    """Holds the logits of one prefix, and brings R to them and their gradient back."""

    def __init__(self, contrast: Contrast, size: int, weight: float, weights: Weights | None):
        self.weight, self.rows, self.columns = weight, Side(contrast.rows.z, size), Side(contrast.columns.z, size)
        self.whole = self.rows.whole
        self.logits = contrast.make_logits(self.rows.unit, self.columns.unit)
        self.dt = torch.zeros_like(self.logits.t)
        """dL/dt of what never met R"""
        r, self._c = self.rows.reciprocal, self.columns.reciprocal
        self._tr, self._weights = r * self.logits.factor, weights
        # A_ij = left_i G_ij right_j
        self._left = weight * r if weights is None else weight * r * weights[0]
        self._right = self._c if weights is None else self._c * weights[1]

    def write_logits(
        self, rows: slice, R: Float[Tensor, "rows n"], room: Float[Tensor, "rows n"]
    ) -> Float[Tensor, "rows n"]:
        """Writes the logits of these rows into `room`, by step 1; those of the whole are in the place of R already."""
        if self.whole:
            return R
        for block, of_R, tr in split_blocks(room, R, self._tr[rows]):
            torch.mul(of_R, tr[:, None], out=block).mul_(self._c)
        return self.logits.amend(rows, room)

    def add_gradient(
        self, rows: slice, G: Float[Tensor, "rows n"], R: Float[Tensor, "rows n"], F: Float[Tensor, "rows n"] | None
    ) -> Float[Tensor, "rows n"]:
        """Adds A to F, which is G where this is the longest prefix, returns it, and adds to q, by steps 2 and 3.

        R is overwritten.
        """
        if self.whole and self._weights is None:
            return G if self.weight == 1 else G.mul_(self.weight)
        left, right, q = self._left[rows], self._right, self.rows.q[rows]
        of_columns, sums = torch.zeros_like(right), [] if F is None else [F]
        for A, GR, of_rows, left_block, *of_F in split_blocks(G, R, q, left, *sums):
            if not self.whole:
                # left and right go before the sums of G R: two passes over it, and none over A R
                torch.mv(GR.mul_(A), right, out=of_rows)
                of_columns.addmv_(GR.T, left_block)
            A.mul_(left_block[:, None])
            if of_F:
                of_F[0].addcmul_(A, right)
            else:
                A.mul_(right)
        q.mul_(left)
        with self.logits.in_turn(rows, "lengths"):
            self.columns.q.addcmul_(of_columns, right)
        return G if F is None else F

    def add_linear(self, finishes: Sequence[Finish], wanted: Wanted) -> None:
        """Sets the gradients of what never met R, by step 5."""
        if not finishes or not any(wanted):
            return
        x, y, w, v = self.rows, self.columns, self.weight, 1.0
        if self._weights is not None:
            w, v = w * self._weights[0][:, None], self._weights[1][:, None]
        GY = torch.zeros_like(x.unit) if wanted.x or wanted.scale else None
        GX = torch.zeros_like(y.unit) if wanted.y else None
        for finish in finishes:
            finish(GY, GX)
        if GY is not None:
            self.dt = (GY.mul_(w) * x.unit).sum()
            x.linear = x.differentiate(GY.mul_(self.logits.t))
        if GX is not None:
            y.linear = y.differentiate(GX.mul_(self.weight * v))


class Side:
    """Holds the rows of a prefix at unit length, as torch.nn.functional.normalize makes them, the whole as it is."""

    def __init__(self, z: Float[Tensor, "n d"], size: int):
        self.size, self.whole = size, size == z.shape[1]
        self.linear: Float[Tensor, "n size"] | None = None
        """the gradient in these rows of what never met R"""
        self.q: Float[Tensor, " n"] = z.new_zeros(z.shape[0])
        """sum of A R over the other side, 0 for the whole"""
        if self.whole:
            self.reciprocal, self.square, self.unit = torch.ones_like(self.q), torch.zeros_like(self.q), z
            return
        length = torch.linalg.vector_norm(z[:, :size], dim=1)
        self.reciprocal = 1 / length.clamp_min(TINY)
        self.square = torch.where(length > TINY, self.reciprocal.square(), 0.0)
        """r^2, 0 where the length was too small to divide by"""
        self.unit: Float[Tensor, "n size"] = z[:, :size] * self.reciprocal[:, None]

    def differentiate(self, gradient: Float[Tensor, "n size"]) -> Float[Tensor, "n size"]:
        """Turns the gradient in unit rows into that in the rows themselves, in its memory."""
        if self.whole:
            return gradient
        along = (gradient * self.unit).sum(1, keepdim=True) * (self.square > 0)[:, None]
        return gradient.addcmul_(self.unit, along, value=-1).mul_(self.reciprocal[:, None])
