"""The sigmoid loss by tiles: value and gradient in one pass, as no row needs to see its other tiles first.

With s = t x y^T + b, weights w and v, P_ij = 1 for positives:
 1. The loss is sum_ij w_i v_j l_ij, l = softplus(s), softplus(-s) for a positive, as softplus(s) - s = softplus(-s).
 2. G_ij = w_i v_j sigma(s), -w_i v_j sigma(-s) for a positive: turning s around leaves nothing to cancel.
 3. dL/db = sum_ij G_ij. Tiles write their sums of the loss and of G, to be added in their order.
 4. A tile of G goes to scratch, rounded to the operands' type, for the products G Y and G^T X.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.tiles.tile import (
    as_blocks,
    find_span,
    load_keys,
    locate_tile,
    logistic,
    mask_same,
    meets_itself,
    multiply,
    span_itself,
    spans_meet,
    split_strips,
)


@triton.jit
def sigmoid_tiles(
    x,
    y,
    g,
    x_key,
    y_key,
    itself,
    w,
    v,
    scale,
    bias,
    value_parts,
    bias_parts,
    start,
    stop,
    N,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    STRIPS: tl.constexpr,
    PRECISION: tl.constexpr,
    TMA: tl.constexpr,
    UPCAST: tl.constexpr,
    SELF: tl.constexpr,
    STORE: tl.constexpr,
):
    """Writes the sums of loss and G of the tiles of rows start..stop into value_parts and bias_parts [tiles], and, if
    STORE, G into g [stop - start, N]. One pass over S: x and y are read, and of M x N numbers only G is written, once.
    """
    x, y = as_blocks(x, stop, D, D, BM, BK, TMA), as_blocks(y, N, D, D, BN, BK, TMA)
    g = as_blocks(g, stop - start, N, tl.cdiv(N, 8) * 8, BM, BN // STRIPS, TMA)
    num_row_tiles, num_column_tiles = tl.cdiv(stop - start, BM), tl.cdiv(N, BN)
    t, offset = tl.load(scale), tl.load(bias)
    for index in range(tl.program_id(0), num_row_tiles * num_column_tiles, tl.num_programs(0)):
        tile_row, tile_column = locate_tile(index, num_row_tiles, num_column_tiles, GROUP)
        first_row, first_column = start + tile_row * BM, tile_column * BN
        tile = multiply(x, y, first_row, first_column, D, BM, BN, BK, PRECISION, UPCAST)
        dots = split_strips(tile, BM, BN, STRIPS)
        i = first_row + tl.arange(0, BM)
        # Absent items have weight 0, and zeros in x and y, so that what they are weighted with is finite: no mask
        kx, wi = load_keys(x_key, i, stop, -1), tl.load(w + i, i < stop, 0.0)
        x_span, own_span = find_span(kx), span_itself(itself, i, stop, SELF)
        # Sums run over the strips as vectors of rows: one number a tile would take a reduction a strip
        costs, slopes = tl.zeros((BM,), tl.float32), tl.zeros((BM,), tl.float32)
        for strip in tl.static_range(STRIPS):
            at = first_column + strip * (BN // STRIPS)
            j = at + tl.arange(0, BN // STRIPS)
            ky, vj = load_keys(y_key, j, N, -2), tl.load(v + j, j < N, 0.0)
            near = spans_meet(x_span, find_span(ky))
            s = dots[strip] * t + offset
            # Positives are turned around before, and their slope after, which is all that distinguishes them (step 2)
            if near:
                s = tl.where(kx[:, None] == ky[None, :], -s, s)
            if SELF:
                if meets_itself(own_span, at, BN // STRIPS):
                    s = tl.where(mask_same(itself, i, j, stop), float("-inf"), s)  # costs nothing
            slope, cost = logistic(s)
            if near:
                slope = tl.where(kx[:, None] == ky[None, :], -slope, slope)
            # v is within the sums over columns; w is the same for a row's whole tile, and waits for the end
            costs += tl.sum(cost * vj[None, :], 1)
            slope *= vj[None, :]
            slopes += tl.sum(slope, 1)
            if STORE:
                g.store([tile_row * BM, at], (slope * wi[:, None]).to(g.dtype))
        tl.store(value_parts + index, tl.sum(costs * wi))
        tl.store(bias_parts + index, tl.sum(slopes * wi))
