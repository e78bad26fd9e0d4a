"""InfoNCE of a small batch in which every item has one positive, as in CLIP: the dense way, in few operations.

At 256 x 256 an operation of torch takes about as long to start as to run, and the general way, with its chunks, blocks
and lists of pairs, starts many more. The mathematics is that of kernels.chunked.softmax with P = I, n_i = m_j
= 1 and equal weights a_i = b_j = a: with c a number that keeps exp(S - c) in range,
    row_i = c + log r_i,  r_i = sum_j exp(S_ij - c);      column_j = c + log k_j,  k_j = sum_i exp(S_ij - c);
    loss = a sum_i row_i + a sum_j column_j - 2 a sum_i S_ii;      G = exp(S - c) (a / r_i + a / k_j) - 2 a I.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.autograd import Gradients, Wanted
from kernels.chunked.elementwise import exp_
from kernels.chunked.logits import BELOW, make_room
from kernels.chunked.lse import SMALLEST

if TYPE_CHECKING:
    from jaxtyping import Float

CELLS = 2**20
"""logits of the largest batch that is small: 1024 x 1024, 4 MiB"""


def solve_one_to_one(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], t: Float[Tensor, ""], wanted: Wanted
) -> tuple[Float[Tensor, ""], Gradients] | None:
    """Computes the symmetric loss of rows i and columns i, and its wanted gradients.

    Returns None where one c does not serve all of S, which takes the maximum of every row and column: rows that are no
    unit vectors, or a scale of hundreds.
    """
    num, a, c = x.shape[0], 0.5 / x.shape[0], max(abs(float(t)) - BELOW, 0.0)
    tx = x * t
    S = torch.mm(tx, y.T, out=make_room(x, num, num))
    own = S.diagonal().sum()
    E = exp_(S.sub_(c) if c else S)
    sums = torch.stack([E.sum(1), E.sum(0)])
    logs = sums.log()
    least, most = logs.aminmax()
    if not (float(least) > SMALLEST and float(most) < torch.inf):
        return None
    # The loss is a small difference of large sums near its end: rounding may take it below 0, the exact value never is
    value = (a * logs.sum() + 2 * a * (num * c - own)).clamp_min(0.0)
    if not any(wanted):
        return value, Gradients(None, None, None)
    from_row, from_column = a / sums
    G = E.mul_(from_row[:, None] + from_column)
    G.diagonal().sub_(2 * a)
    GY = G @ y if wanted.x or wanted.scale else None
    return value, Gradients(
        GY * t if GY is not None and wanted.x else None,
        G.T @ tx if wanted.y else None,
        # dL/dt = sum_ij G_ij <x_i, y_j> = <G Y, X>
        (GY * x).sum() if GY is not None and wanted.scale else None,
    )
