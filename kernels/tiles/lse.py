"""Row and column log-sum-exps of S = t X Y^T, in base 2, from one pass over its tiles.

With s = S log2(e), i a row, j a column:
 1. A tile of x y^T is formed in float32 registers and scaled there: s = c x y^T, c = t log2(e).
 2. Absent and excluded pairs become exp2(-inf) = 0.
 3. SHIFTED: with one reference m >= s for all of S, E = exp2(s - m) serves rows and columns alike:
    row = m + log2 sum_j E, column = m + log2 sum_i E. One exponential a logit, no maxima.
 4. That is right while no sum of E is too small for float32: as long as every log-sum-exp is above m - 100, terms of
    2^-26 of the largest still count. Else the pass is repeated with each row's and each column's own maximum of the
    tile as the reference: two exponentials. Which of the two it is is a number on the device (`needed`), never read
    by the host: both are launched, and the one that is not needed returns.
 5. Each tile writes its rows' and its columns' log-sum-exps, or their sums of E when SHIFTED, as a logarithm here would
    be taken by every thread that shares a column. `merge` adds them up in their order. No atomics: the same bits every
    time.
 6. `mean` over positives also needs sum_ij P_ij (a_i/n_i + b_j/m_j) S_ij, in the same arithmetic as the log-sum-exps
    (else the loss may pass its floor): one number a tile, formed only where the tile may hold positives.
 7. LIMITED: a pair that is no positive leaves its row's sums where the cosine, before it is scaled, is above the row's
    limit, and its column's where it is above the column's. GUIDE: the cosine is that of other vectors, of GUIDE
    dimensions, whose tile is a second product.
 8. HARD: pairs that are no positives are scaled by `hard` in the place of c.
 9. ROWS_ONLY: where columns have no loss (kernels.tiles.rows_only), E is kept, which is G but for a factor a row.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.tiles.tile import (
    NEGATIVES,
    POSITIVES,
    add_log_weights,
    any_absent,
    as_blocks,
    find_false_negatives,
    find_span,
    load_keys,
    locate_tile,
    mask_absent,
    mask_positive,
    mask_same,
    meets_itself,
    multiply,
    scale_logits,
    span_itself,
    spans_meet,
    split_strips,
)


@triton.jit
def lse_tiles(
    x,
    y,
    g,
    x_key,
    y_key,
    itself,
    x_log_weight,
    y_log_weight,
    x_limit,
    y_limit,
    x_guide,
    y_guide,
    x_pull,
    y_pull,
    c,
    hard,
    reference,
    needed,
    row_parts,
    column_parts,
    pull_parts,
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
    SHIFTED: tl.constexpr,
    PAIRS: tl.constexpr,
    SELF: tl.constexpr,
    WEIGHED: tl.constexpr,
    HARD: tl.constexpr,
    LIMITED: tl.constexpr,
    GUIDE: tl.constexpr,
    PULL: tl.constexpr,
    ROWS_ONLY: tl.constexpr,
):
    """Writes log-sum-exps, or sums of E, of the tiles of rows start..stop: into row_parts [column tiles, stop - start],
    column_parts [row tiles, N], pull_parts [row tiles, column tiles]. Where a tile has nothing to say
    (PAIRS = POSITIVES) it writes nothing. ROWS_ONLY: nothing of columns and, if SHIFTED, E into g [stop - start, N].

    One pass reads x and y by tiles and writes M x column tiles + N x row tiles numbers, 1/BM + 1/BN of those of S.
    """
    if not SHIFTED:
        # The pass for what underflows is launched every time, and returns here unless the device found it needed
        if tl.load(needed) == 0:
            return
    x, y = as_blocks(x, stop, D, D, BM, BK, TMA), as_blocks(y, N, D, D, BN, BK, TMA)
    if ROWS_ONLY and SHIFTED:
        g = as_blocks(g, stop - start, N, tl.cdiv(N, 8) * 8, BM, BN // STRIPS, TMA)
    num_row_tiles, num_column_tiles = tl.cdiv(stop - start, BM), tl.cdiv(N, BN)
    scale, hard_scale, shift = tl.load(c), tl.load(hard), tl.load(reference)
    if GUIDE > 0:
        x_guide = as_blocks(x_guide, stop, GUIDE, GUIDE, BM, BK, TMA)
        y_guide = as_blocks(y_guide, N, GUIDE, GUIDE, BN, BK, TMA)
    for index in range(tl.program_id(0), num_row_tiles * num_column_tiles, tl.num_programs(0)):
        tile_row, tile_column = locate_tile(index, num_row_tiles, num_column_tiles, GROUP)
        first_row, first_column = start + tile_row * BM, tile_column * BN
        i = first_row + tl.arange(0, BM)
        kx = load_keys(x_key, i, stop, -1)
        some = True
        if PAIRS == POSITIVES:
            # Positives are few: most tiles are not even multiplied. Their parts stay what the host filled in, -inf
            some = spans_meet(find_span(kx), find_span(load_keys(y_key, first_column + tl.arange(0, BN), N, -2)))
        if some:
            tile = multiply(x, y, first_row, first_column, D, BM, BN, BK, PRECISION, UPCAST)
            dots = split_strips(tile, BM, BN, STRIPS)
            if GUIDE > 0:
                tile = multiply(x_guide, y_guide, first_row, first_column, GUIDE, BM, BN, BK, PRECISION, UPCAST)
                judged = split_strips(tile, BM, BN, STRIPS)
            else:
                judged = dots
            x_span, own_span = find_span(kx), span_itself(itself, i, stop, SELF)
            pull = tl.zeros((BM,), tl.float32)
            # Running over the strips: a row's maximum and its sum of exp2(s - maximum)
            top, total = tl.full((BM,), -1e30, tl.float32), tl.zeros((BM,), tl.float32)
            for strip in tl.static_range(STRIPS):
                at = first_column + strip * (BN // STRIPS)
                j = at + tl.arange(0, BN // STRIPS)
                ky = load_keys(y_key, j, N, -2)
                y_span = find_span(ky)
                near = spans_meet(x_span, y_span)
                s = scale_logits(dots[strip], scale, hard_scale, kx, ky, near, HARD)
                s = add_log_weights(s, x_log_weight, y_log_weight, i, j, stop, N, WEIGHED)
                # Step 6, from the very logits that are summed below
                if PULL:
                    if near:
                        weight = tl.load(x_pull + i, i < stop, 0.0)[:, None] + tl.load(y_pull + j, j < N, 0.0)[None, :]
                        pull += tl.sum(tl.where(mask_positive(kx, ky, itself, i, j, stop, SELF), s * weight, 0.0), 1)
                if any_absent(x_span, y_span):
                    s = tl.where(mask_absent(kx, ky), float("-inf"), s)
                if SELF:
                    if meets_itself(own_span, at, BN // STRIPS):
                        s = tl.where(mask_same(itself, i, j, stop), float("-inf"), s)
                if PAIRS == NEGATIVES:
                    if near:
                        s = tl.where(kx[:, None] == ky[None, :], float("-inf"), s)
                if PAIRS == POSITIVES:
                    s = tl.where(kx[:, None] == ky[None, :], s, float("-inf"))
                # Step 7: a pair may leave its row's sums and stay in its column's
                if LIMITED:
                    cosine = judged[strip]
                    from_rows, from_columns = find_false_negatives(
                        cosine, x_limit, y_limit, i, j, stop, N, kx, ky, near
                    )
                if SHIFTED:
                    # A column is done with this tile, as a tile has all its rows at once; a row goes on to other strips
                    e = tl.exp2(s - shift)
                    e_row, e_column = e, e
                    if LIMITED:
                        e_row, e_column = tl.where(from_rows, 0.0, e), tl.where(from_columns, 0.0, e)
                    total += tl.sum(e_row, 1)
                    if ROWS_ONLY:
                        g.store([tile_row * BM, at], e_row.to(g.dtype))
                    else:
                        column = tl.sum(e_column, 0)
                else:
                    s_row, s_column = s, s
                    if LIMITED:
                        s_row = tl.where(from_rows, float("-inf"), s)
                        s_column = tl.where(from_columns, float("-inf"), s)
                    # A finite stand-in for the maximum of nothing: -inf - -inf would be NaN
                    higher = tl.maximum(top, tl.max(s_row, 1))
                    total = total * tl.exp2(top - higher) + tl.sum(tl.exp2(s_row - higher[:, None]), 1)
                    top = higher
                    highest = tl.maximum(tl.max(s_column, 0), -1e30)
                    column = highest + tl.log2(tl.sum(tl.exp2(s_column - highest[None, :]), 0))
                if not ROWS_ONLY:
                    tl.store(column_parts + tile_row.to(tl.int64) * N + j, column, j < N)
            # int64: the number of a part times its length passes 2^31 where batches are large
            row = total if SHIFTED else top + tl.log2(total)
            tl.store(row_parts + tile_column.to(tl.int64) * (stop - start) + (i - start), row, i < stop)
            if PULL:
                tl.store(pull_parts + index, tl.sum(pull))


@triton.jit
def merge(
    parts,
    total,
    reference,
    needed,
    num_parts,
    L,
    SHIFTED: tl.constexpr,
    ALWAYS: tl.constexpr,
    BP: tl.constexpr,
    BL: tl.constexpr,
):
    """Adds parts to totals: total [L] <- log2 (2^total + sum over parts [num_parts, L] of 2^part).

    Parts that are SHIFTED are themselves the powers, divided by 2^reference. A program has BL totals to itself and goes
    through their parts in order, BP at a time, where atomics would add them in any order: the same bits every time.
    """
    if not ALWAYS:
        if tl.load(needed) == 0:
            return
    at = tl.program_id(0) * BL + tl.arange(0, BL)
    # As in the tiles: a running maximum, finite from the beginning, and the sum of exp2(part - maximum)
    top = tl.maximum(tl.load(total + at, at < L, float("-inf")), -1e30)
    rest = tl.exp2(tl.load(total + at, at < L, float("-inf")) - top)
    for first in range(0, num_parts, BP):
        p = first + tl.arange(0, BP)
        inside = (p < num_parts)[:, None] & (at < L)[None, :]
        part = tl.load(parts + p.to(tl.int64)[:, None] * L + at[None, :], inside, 0.0 if SHIFTED else float("-inf"))
        if SHIFTED:
            part = tl.load(reference) + tl.log2(part)
        higher = tl.maximum(top, tl.max(part, 0))
        rest = rest * tl.exp2(top - higher) + tl.sum(tl.exp2(part - higher[None, :]), 0)
        top = higher
    tl.store(total + at, top + tl.log2(rest), at < L)
