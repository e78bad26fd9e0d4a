"""The sigmoid loss over several positives, in one pass over its logits.

With w_i the row weights over their sum and v_j the column weights:
L = sum_ij w_i v_j [softplus(S_ij) - P_ij S_ij],  G_ij = w_i v_j [sigmoid(S_ij) - P_ij],
G Y = diag(w) [sigmoid(S) - P] diag(v) Y: the weights meet X and Y, never S.
Few positives are turned around in S, as softplus(S) - S is softplus(-S) and sigmoid(S) - 1 is -sigmoid(-S), so that
nothing cancels; many are subtracted as segment sums.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.chunked.contrast import Contrast
from kernels.chunked.elementwise import split_blocks, write_sigmoid
from kernels.chunked.logits import Logits
from kernels.distributed import sum_over

if TYPE_CHECKING:
    from jaxtyping import Float


def weigh_pairs(contrast: Contrast) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    """Makes (w, v)."""
    weight = contrast.rows.weight
    (total,) = sum_over(contrast.problem.group, weight.sum())
    return weight / total.clamp_min(torch.finfo(total.dtype).tiny), contrast.columns.weight


class Sigmoid:
    """Adds up a sigmoid loss and its gradient chunk by chunk."""

    def __init__(self, contrast: Contrast, logits: Logits, w: Float[Tensor, " m"], v: Float[Tensor, " n"]):
        self._logits, self._P, self._group, self._bias = (
            logits,
            contrast.P,
            contrast.problem.group,
            contrast.problem.bias,
        )
        self.w, self.v = w, v
        self._cost, self._db = torch.zeros_like(logits.t), torch.zeros_like(logits.t)

    @cached_property
    def vy(self) -> Float[Tensor, "n d"]:
        """Returns what G has to be multiplied with for dL/dX, but for w."""
        return self._logits.y * self.v[:, None]

    @cached_property
    def wx(self) -> Float[Tensor, "m d"]:
        """Returns what G has to be multiplied with for dL/dY, but for v."""
        return self._logits.tx * self.w[:, None]

    @cached_property
    def positive_y(self) -> Float[Tensor, "m d"]:
        """Returns P diag(v) Y, the positives' part of the product."""
        return self._P.sum_per_row(self.vy)

    def write_gradient(self, rows: slice, S: Float[Tensor, "rows n"]) -> Float[Tensor, "rows n"]:
        """Adds this chunk to the loss and to dL/db, and turns S into sigmoid(S) - P, or sigmoid(S)."""
        pairs = self._P.list_pairs(rows) if self._P.few else None
        if pairs is not None:
            S[pairs] = -S[pairs]
        share = torch.zeros_like(self._cost)
        for block, w_block in split_blocks(S, self.w[rows]):
            share.add_(w_block @ (write_sigmoid(block) @ self.v))
        if pairs is not None:
            S[pairs] = -S[pairs]
        share_db = self.w[rows] @ (S @ self.v)
        with self._logits.in_turn(rows, "value"):
            self._cost.add_(share)
            self._db.add_(share_db)
        return S

    def finish(self, GY: Tensor | None, GX: Tensor | None) -> None:
        """Subtracts what many positives take from the products, which have not met the weights of their own side."""
        if self._P.few:
            return
        if GY is not None:
            GY.sub_(self.positive_y)
        if GX is not None:
            GX.sub_(self._P.sum_per_column(self.wx))

    def complete(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Returns (loss, dL/db), when every chunk was given."""
        if not self._P.few:
            assert self._bias is not None
            num_positives = self.w @ self._P.sum_per_row(self.v[:, None])[:, 0]
            self._cost.sub_((self.wx * self.positive_y).sum() + self._bias * num_positives)
            self._db.sub_(num_positives)
        (value,) = sum_over(self._group, self._cost)
        # As every term is; what is below comes from the rounding of softplus(S) - S
        return value.clamp_min(0.0), self._db
