"""G = dL/dS by tiles, for the softmax family, and the sums over positives that `each` needs before it.

S is formed again, and a tile of G is rounded to the operands' type and left in scratch, where two library products take
it: G Y and G^T X. With s = S log2(e), row_i and column_j the base-2 log-sum-exps, P_ij = 1 for positives:
 1. G_ij = a_i exp2(s - row_i) + b_j exp2(s - column_j).
 2. SHIFTED (see kernels.tiles.lse, steps 3 and 4): with E = exp2(s - m) it is
    E (a_i 2^(m - row_i) + b_j 2^(m - column_j)): one exponential. The two powers come with the weights.
 3. mean    G_ij -= P_ij (p_i + q_j),                                      p = a/n, q = b/m
    logsum  G_ij -= P_ij [a_i exp2(s - p_i) + b_j exp2(s - q_j)],          p, q the log-sum-exps over the positives,
            into which the weights are folded: p_i - log2 a_i
    each    G_ij  = -p_i sigma(row_i - s) - q_j sigma(column_j - s) where P_ij, with p = a/n, q = b/m, row and column
            over the negatives, and a_i B_i/n_i in the place of a_i in step 1, B_i = sum_p sigma(row_i - s_ip).
 4. LIMITED (kernels.tiles.lse, step 7): a_i is 0 where the pair has left its row's sums, b_j where its column's.
 5. HARD, GUIDE: the logits and cosines are those of kernels.tiles.lse, steps 7 and 8. The weights of hard negatives are
    constants, so that G is the gradient in t x y^T alone.
 6. All this comes before rounding: near convergence G is the small difference of two numbers that are alike, and
    rounding them apart would leave an error of 2^-9 of each.

Trap: weights arrive multiplied by a power of two (see launch), without which float16 would lose what is below 6e-8.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.tiles.tile import (
    add_log_weights,
    any_absent,
    as_blocks,
    find_false_negatives,
    find_span,
    load_keys,
    locate_tile,
    logistic,
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

NONE = tl.constexpr(0)
MEAN = tl.constexpr(1)
LOGSUM = tl.constexpr(2)
EACH = tl.constexpr(3)
"""what positives do to the gradient"""


LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def gradient_tiles(
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
    a,
    b,
    row,
    column,
    p,
    q,
    c,
    hard,
    reference,
    exact,
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
    POSITIVE: tl.constexpr,
    DISTINCT: tl.constexpr,
    SELF: tl.constexpr,
    WEIGHED: tl.constexpr,
    HARD: tl.constexpr,
    LIMITED: tl.constexpr,
    GUIDE: tl.constexpr,
    NEAR: tl.constexpr,
):
    """Writes rows start..stop of G into g [stop - start, N]. a, b: the weights of step 1, or of step 2 when SHIFTED.
    NEAR: only the tiles that may hold positives; what was there in the others stays.

    S is formed a second time, which costs 2 MND FLOPs and no memory; keeping it from the first pass would cost M x N
    numbers. G goes to memory once, in 2 bytes each for half-precision operands, and is read by two library products.
    """
    # Both kinds are launched; `exact` says which of them has to run, and the other returns
    if (tl.load(exact) != 0) == SHIFTED:
        return
    x, y = as_blocks(x, stop, D, D, BM, BK, TMA), as_blocks(y, N, D, D, BN, BK, TMA)
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
        if NEAR:
            some = spans_meet(find_span(kx), find_span(load_keys(y_key, first_column + tl.arange(0, BN), N, -2)))
        if some:
            tile = multiply(x, y, first_row, first_column, D, BM, BN, BK, PRECISION, UPCAST)
            dots = split_strips(tile, BM, BN, STRIPS)
            if GUIDE > 0:
                tile = multiply(x_guide, y_guide, first_row, first_column, GUIDE, BM, BN, BK, PRECISION, UPCAST)
                judged = split_strips(tile, BM, BN, STRIPS)
            else:
                judged = dots
            ai, x_span, own_span = tl.load(a + i, i < stop, 0.0), find_span(kx), span_itself(itself, i, stop, SELF)
            for strip in tl.static_range(STRIPS):
                at = first_column + strip * (BN // STRIPS)
                j = at + tl.arange(0, BN // STRIPS)
                ky, bj = load_keys(y_key, j, N, -2), tl.load(b + j, j < N, 0.0)
                y_span = find_span(ky)
                near = spans_meet(x_span, y_span)
                s = scale_logits(dots[strip], scale, hard_scale, kx, ky, near, HARD)
                s = add_log_weights(s, x_log_weight, y_log_weight, i, j, stop, N, WEIGHED)
                # The dense part, of steps 1 and 2: a softmax of the row and one of the column, weighted
                wi, wj = ai[:, None], bj[None, :]
                if LIMITED:
                    cosine = judged[strip]
                    from_rows, from_columns = find_false_negatives(
                        cosine, x_limit, y_limit, i, j, stop, N, kx, ky, near
                    )
                    wi, wj = tl.where(from_rows, 0.0, wi), tl.where(from_columns, 0.0, wj)
                if SHIFTED:
                    G = tl.exp2(s - shift) * (wi + wj)
                else:
                    row_i, column_j = tl.load(row + i, i < stop, 0.0), tl.load(column + j, j < N, 0.0)
                    # Where nothing counts weights are 0, and exp2(s - -inf) would be infinite
                    row_i = tl.where(row_i == float("-inf"), float("inf"), row_i)[:, None]
                    column_j = tl.where(column_j == float("-inf"), float("inf"), column_j)[None, :]
                    if LIMITED:
                        # What was dropped may lie so far above the rest that its exponential is infinite, too
                        row_i = tl.where(from_rows, float("inf"), row_i)
                        column_j = tl.where(from_columns, float("inf"), column_j)
                    G = wi * tl.exp2(s - row_i) + wj * tl.exp2(s - column_j)
                # Positives, of step 3, while G is still float32 (step 6)
                if DISTINCT or POSITIVE != NONE:
                    if near:
                        pair = kx[:, None] == ky[None, :]
                        if DISTINCT or POSITIVE == EACH:
                            G = tl.where(pair, 0.0, G)
                        if POSITIVE != NONE:
                            pi, qj = tl.load(p + i, i < stop, 0.0)[:, None], tl.load(q + j, j < N, 0.0)[None, :]
                            if POSITIVE == MEAN:
                                G -= tl.where(pair, pi + qj, 0.0)
                            elif POSITIVE == LOGSUM:
                                G -= tl.where(pair, tl.exp2(s - pi) + tl.exp2(s - qj), 0.0)
                            else:
                                ri, cj = tl.load(row + i, i < stop, 0.0), tl.load(column + j, j < N, 0.0)
                                s = tl.where(pair, s, float("inf"))  # where it is no positive: sigma(row - inf) is 0
                                from_row, _ = logistic((ri[:, None] - s) * LN_2)
                                G -= pi * from_row
                                from_column, _ = logistic((cj[None, :] - s) * LN_2)
                                G -= qj * from_column
                # Last, whatever was subtracted from an absent item's pairs or an item's pair with itself
                if any_absent(x_span, y_span):
                    G = tl.where(mask_absent(kx, ky), 0.0, G)
                if SELF:
                    if meets_itself(own_span, at, BN // STRIPS):
                        G = tl.where(mask_same(itself, i, j, stop), 0.0, G)
                # The only rounding of G; rows and columns past the end are not written
                g.store([tile_row * BM, at], G.to(g.dtype))


@triton.jit
def each_tiles(
    x,
    y,
    x_key,
    y_key,
    itself,
    x_log_weight,
    y_log_weight,
    p,
    q,
    row,
    column,
    c,
    row_parts,
    column_parts,
    value_parts,
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
    WEIGHED: tl.constexpr,
):
    """Writes B_i and B'_j of step 3, and sum_ij P_ij [p_i softplus(row_i - s_ij) + q_j softplus(column_j - s_ij)], by
    tiles: into row_parts [column tiles, stop - start], column_parts [row tiles, N], value_parts [tiles].

    It comes between the two passes over S: it needs the log-sum-exps over all negatives, and the gradient needs B. Only
    tiles that may hold positives are formed, and the parts of all others stay what the host filled in, 0.
    """
    x, y = as_blocks(x, stop, D, D, BM, BK, TMA), as_blocks(y, N, D, D, BN, BK, TMA)
    num_row_tiles, num_column_tiles = tl.cdiv(stop - start, BM), tl.cdiv(N, BN)
    for index in range(tl.program_id(0), num_row_tiles * num_column_tiles, tl.num_programs(0)):
        tile_row, tile_column = locate_tile(index, num_row_tiles, num_column_tiles, GROUP)
        first_row, first_column = start + tile_row * BM, tile_column * BN
        i = first_row + tl.arange(0, BM)
        kx = load_keys(x_key, i, stop, -1)
        if spans_meet(find_span(kx), find_span(load_keys(y_key, first_column + tl.arange(0, BN), N, -2))):
            tile = multiply(x, y, first_row, first_column, D, BM, BN, BK, PRECISION, UPCAST)
            logits = split_strips(tile * tl.load(c), BM, BN, STRIPS)
            ri, pi = tl.load(row + i, i < stop, 0.0), tl.load(p + i, i < stop, 0.0)
            rows, value = tl.zeros((BM,), tl.float32), tl.zeros((BM,), tl.float32)
            for strip in tl.static_range(STRIPS):
                j = first_column + strip * (BN // STRIPS) + tl.arange(0, BN // STRIPS)
                s = add_log_weights(logits[strip], x_log_weight, y_log_weight, i, j, stop, N, WEIGHED)
                cj, qj = tl.load(column + j, j < N, 0.0), tl.load(q + j, j < N, 0.0)
                # Of what is no positive, sigma(row - inf) and softplus(row - inf) are 0
                s = tl.where(mask_positive(kx, load_keys(y_key, j, N, -2), itself, i, j, stop, SELF), s, float("inf"))
                from_row, loss = logistic((ri[:, None] - s) * LN_2)
                rows += tl.sum(from_row, 1)
                value += tl.sum(pi[:, None] * loss, 1)
                from_column, loss = logistic((cj[None, :] - s) * LN_2)
                value += tl.sum(qj[None, :] * loss, 1)
                tl.store(column_parts + tile_row.to(tl.int64) * N + j, tl.sum(from_column, 0), j < N)
            tl.store(row_parts + tile_column.to(tl.int64) * (stop - start) + (i - start), rows, i < stop)
            tl.store(value_parts + index, tl.sum(value))
