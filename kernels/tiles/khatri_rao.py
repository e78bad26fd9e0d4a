"""Contrast with all pairs of two other modalities: columns (k, j) are the products y_j * z_k, formed in a tile only.

With s_i(kj) = c sum_d x_id y_jd z_kd, c = t log2(e), the tile of rows i and columns (k, j), one k and a block of j, is
the product of x * z_k, rounded to the operands' type for the tensor cores, and y. Only rows' log-sum-exps are wanted.
 1. row_i = log2 sum_kj exp2(s_i(kj)); by tiles with the tile's own maximum, merged as in kernels.tiles.lse.
 2. G_i(kj) = a_i exp2(s_i(kj) - row_i), a_i the upstream gradient: into scratch [k, i, j], for the library products
    P_k = G_k Y and Q_k = G_k^T (X * z_k):  dX = t sum_k P_k * z_k,  dY = t sum_k Q_k,  dz_k = t sum_i x_i * P_k,i.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.tiles.tile import as_blocks


@triton.jit
def _multiply(
    x,
    y,
    z,
    row,
    column,
    k,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Computes the tile of (X * z_k) Y^T that starts at (row, column), float32 [BM, BN]."""
    tile = tl.zeros((BM, BN), tl.float32)
    for d in range(0, D, BK):
        a, b = x.load([row, d]), y.load([column, d])
        factor = tl.load(z + k.to(tl.int64) * D + d + tl.arange(0, BK))
        # Multiplied in float32 and rounded once: x_i * z_k exists for the length of this product only
        a = (a.to(tl.float32) * factor.to(tl.float32)[None, :]).to(x.dtype)
        if UPCAST:
            a, b = a.to(tl.float32), b.to(tl.float32)
        tile = tl.dot(a, b.T, tile, input_precision=PRECISION)
    return tile


@triton.jit
def khatri_rao_lse_tiles(
    x,
    y,
    z,
    c,
    parts,
    start,
    stop,
    M,
    N,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    TMA: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Writes the log-sum-exps of the tiles of z_start .. z_stop into parts [(stop - start) * column tiles, M].

    Rows only, so there is no common reference: each tile takes its own maximum, and `merge` makes up for it.
    """
    x, y = as_blocks(x, M, D, D, BM, BK, TMA), as_blocks(y, N, D, D, BN, BK, TMA)
    num_row_tiles, num_column_tiles = tl.cdiv(M, BM), tl.cdiv(N, BN)
    scale = tl.load(c)
    for index in range(tl.program_id(0), (stop - start) * num_row_tiles * num_column_tiles, tl.num_programs(0)):
        # Row tiles run fastest: neighbouring programs share k and a block of y, which then comes from L2
        part = index // num_row_tiles
        tile_row, k, tile_column = index % num_row_tiles, start + part // num_column_tiles, part % num_column_tiles
        i, j = tile_row * BM + tl.arange(0, BM), tile_column * BN + tl.arange(0, BN)
        s = _multiply(x, y, z, tile_row * BM, tile_column * BN, k, D, BM, BN, BK, PRECISION, UPCAST) * scale
        # Columns past the end come as zeros from the loads, and a logit of 0 would count: -inf does not
        s = tl.where((j < N)[None, :], s, float("-inf"))
        top = tl.max(s, 1)
        row = top + tl.log2(tl.sum(tl.exp2(s - top[:, None]), 1))
        tl.store(parts + part.to(tl.int64) * M + i, row, i < M)


@triton.jit
def khatri_rao_gradient_tiles(
    x,
    y,
    z,
    g,
    a,
    row,
    c,
    start,
    stop,
    M,
    N,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    TMA: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Writes G of z_start .. z_stop into g [stop - start, M, N], which three products of the host then read."""
    x, y = as_blocks(x, M, D, D, BM, BK, TMA), as_blocks(y, N, D, D, BN, BK, TMA)
    if not TMA:
        width = tl.cdiv(N, 8) * 8
        g = tl.make_tensor_descriptor(g, [stop - start, M, N], [tl.cast(M, tl.int64) * width, width, 1], [1, BM, BN])
    num_row_tiles, num_column_tiles = tl.cdiv(M, BM), tl.cdiv(N, BN)
    scale = tl.load(c)
    for index in range(tl.program_id(0), (stop - start) * num_row_tiles * num_column_tiles, tl.num_programs(0)):
        part = index // num_row_tiles
        tile_row, slab, tile_column = index % num_row_tiles, part // num_column_tiles, part % num_column_tiles
        i = tile_row * BM + tl.arange(0, BM)
        s = _multiply(x, y, z, tile_row * BM, tile_column * BN, start + slab, D, BM, BN, BK, PRECISION, UPCAST) * scale
        # Past the end a weight of 0 and a log-sum-exp of inf: G is 0 there, whatever the zeros of x gave
        ai, ri = tl.load(a + i, i < M, 0.0), tl.load(row + i, i < M, float("inf"))
        G = ai[:, None] * tl.exp2(s - ri[:, None])
        g.store([slab, tile_row * BM, tile_column * BN], tl.reshape(G, (1, BM, BN)).to(g.dtype))
