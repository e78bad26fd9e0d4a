"""Contrast with every pair of two other modalities: columns y_j * z_k, the Khatri-Rao product, formed and forgotten.

Letters: S_i(jk) = t <x_i, y_j * z_k> for x [M, D], y [N, D], z [K, D]; row_i = log sum_jk exp S_i(jk); g_i the upstream
gradient of row_i. A block is some rows i with some k, the pairs (i, k) being the rows of one matrix product:
 1. A_(ik) = t x_i * z_k, S = A Y^T, and row_i is merged from log-sum-exps of blocks, each with its own maximum.
 2. Backward forms S again:  G_i(jk) = dL/dS_i(jk) = g_i exp(S_i(jk) - row_i).
 3. dL/dY = sum G^T A, and with P = G Y, one row for each pair (i, k):
    dL/dX_i = t sum_k P_ik * z_k,    dL/dz_k = sum_i t x_i * P_ik,    dL/dt = sum_i <x_i, sum_k P_ik * z_k>.
So 2 MNKD FLOPs forward and 6 backward, and memory O((M + N + K) D) beside a block of bounded size.

Traps
- y and z are alike in the mathematics only: the matrix products run over y, so let the longer of the two be y.
- A strip of rows sees all columns and needs no group, but then dL/dY, dL/dZ and dL/dt are the strip's own sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.autograd import without_autocast

if TYPE_CHECKING:
    from jaxtyping import Float

CELLS = 2**20
"""numbers in each matrix of a block, of which there are about four: 4 MiB in float32"""
MIN_PAIRS = 256
"""fewer pairs (i, k) than this make the matrix products slow, however wide they are"""


def khatri_rao_lse(
    x: Float[Tensor, "m d"], y: Float[Tensor, "n d"], z: Float[Tensor, "k d"], t: Float[Tensor, ""]
) -> Float[Tensor, " m"]:
    """Computes the rows' log-sum-exps by blocks, on any device, in the dtype of t."""
    x, y, z = (v.to(t.dtype).contiguous() for v in (x, y, z))
    tx, row = x * t, x.new_full((len(x),), -torch.inf)
    # A row's log-sum-exp grows from block to block; each block takes its own maximum, so that nothing overflows
    with without_autocast(x):
        for rows, ks in _split_blocks(x, y, z):
            a = tx[rows]
            # Rows (i, k) of the product lie k by k under their i, so that all that row i sees is one contiguous row
            S = _multiply_pairs(a, z[ks]) @ y.T
            row[rows] = torch.logaddexp(row[rows], S.view(len(a), -1).logsumexp(1))
    return row


def khatri_rao_gradients(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    z: Float[Tensor, "k d"],
    t: Float[Tensor, ""],
    row: Float[Tensor, " m"],
    g: Float[Tensor, " m"],
    wanted: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Computes the wanted ones of (dx, dy, dz, dt) of g . row."""
    for_x, for_y, for_z, for_t = wanted
    x, y, z = (v.to(t.dtype).contiguous() for v in (x, y, z))
    row = row.masked_fill(row.isneginf(), torch.inf)  # overflown logits: -inf - -inf would be NaN
    # t is in A, and so in dY; dX and dZ meet it at the end and through a
    tx, dx, dy, dz = x * t, torch.zeros_like(x), torch.zeros_like(y), torch.zeros_like(z)
    with without_autocast(x):
        for rows, ks in _split_blocks(x, y, z):
            a, c = tx[rows], z[ks]
            A = _multiply_pairs(a, c)
            G = A @ y.T
            # S of a block turns into G where it lies
            G.view(len(a), -1).sub_(row[rows, None]).exp_().mul_(g[rows, None])
            if for_y:
                dy.addmm_(G.T, A)
            if for_x or for_z or for_t:
                # P takes the memory of A, which dY needed last
                P = torch.mm(G, y, out=A).view(len(a), len(c), -1)
                dz[ks] += (P * a[:, None]).sum(0)
                dx[rows] += P.mul_(c).sum(1)  # t is still missing, which may be 0 while dt is not
    dt = (dx * x).sum() if for_t else None
    return dx.mul_(t) if for_x else None, dy if for_y else None, dz if for_z else None, dt


def _split_blocks(x: Tensor, y: Tensor, z: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yields slices of x and of z whose products with y have about CELLS numbers.

    As many rows as fit are taken first, and as many k beside them as still fit.
    """
    num_pairs = max(CELLS // max(y.shape), MIN_PAIRS)
    num_rows = min(len(x), num_pairs)
    num_ks = num_pairs // num_rows
    for i in range(0, len(x), num_rows):
        for k in range(0, len(z), num_ks):
            yield slice(i, i + num_rows), slice(k, k + num_ks)


def _multiply_pairs(x: Float[Tensor, "m d"], z: Float[Tensor, "k d"]) -> Float[Tensor, "mk d"]:
    """Computes the rows x_i * z_k, all k of one i after the other."""
    return (x[:, None] * z).flatten(0, 1)
