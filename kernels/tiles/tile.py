"""What every kernel does with one tile of logits: find its place, multiply, and know which of its pairs count.

Keys stand for ids: int32, equal where ids are, -1 for an absent row and -2 for an absent column, so that a pair with an
absent item is never positive. Rows and columns past the end load the same keys.

The kernels share an order. A program takes a tile of rows and columns, forms its logits in float32 registers from
blocks of x and y, and goes through them strip by strip. Nothing of a tile's logits is ever written: what leaves is sums
of a row and of a column of the tile, or the tile of dL/dS, and the host's side (kernels.tiles.launch) takes it from
there. So a pass over S reads x and y once for each tile that needs them, mostly from L2, and no memory traffic is
M x N but that of dL/dS.

Trap: tl.dot on bfloat16 is wrong in Triton's interpreter; UPCAST is for it alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

ALL = tl.constexpr(0)
NEGATIVES = tl.constexpr(1)
POSITIVES = tl.constexpr(2)
"""which pairs a log-sum-exp runs over"""


@triton.jit
def locate_tile(index, num_row_tiles, num_column_tiles, GROUP: tl.constexpr):
    """Returns (row tile, column tile) of a tile's number: GROUP row tiles at a time, so that their x stays in L2."""
    per_group = GROUP * num_column_tiles
    first = (index // per_group) * GROUP
    height = min(num_row_tiles - first, GROUP)
    return first + (index % per_group) % height, (index % per_group) // height


@triton.jit
def as_blocks(z, rows, columns, stride, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, TMA: tl.constexpr):
    """Returns a matrix that is read or written by blocks, zeros and nothing beyond its end.

    With TMA z is a descriptor made by the host, else a pointer.
    """
    if not TMA:
        # The host's descriptor would do, but slowly: that its rows are contiguous is known at compile time only here,
        # and without it loads are neither wide nor asynchronous
        z = tl.make_tensor_descriptor(z, [rows, columns], [stride, 1], [HEIGHT, WIDTH])
    return z


@triton.jit
def multiply(
    x,
    y,
    row,
    column,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Computes the tile of X Y^T that starts at (row, column), float32 [BM, BN]; D is a multiple of BK."""
    # The compiler overlaps the loads of the next `num_stages` blocks with this product. Rows and columns past the end
    # are loaded as zeros, and their keys tell them apart later
    tile = tl.zeros((BM, BN), tl.float32)
    for k in range(0, D, BK):
        a, b = x.load([row, k]), y.load([column, k])
        if UPCAST:
            a, b = a.to(tl.float32), b.to(tl.float32)
        tile = tl.dot(a, b.T, tile, input_precision=PRECISION)
    return tile


@triton.jit
def scale_logits(dots, scale, hard_scale, kx, ky, near, HARD: tl.constexpr):
    """Scales products to logits; HARD: those of pairs that are no positives by another scale."""
    if HARD:
        s = dots * hard_scale
        if near:
            s = tl.where(kx[:, None] == ky[None, :], dots * scale, s)
    else:
        s = dots * scale
    return s


@triton.jit
def add_log_weights(s, x_log_weight, y_log_weight, i, j, stop, N, WEIGHED: tl.constexpr):
    """Adds the base-2 log-weights of rows i and of columns j, where there are any."""
    if WEIGHED:
        r, c = tl.load(x_log_weight + i, i < stop, 0.0), tl.load(y_log_weight + j, j < N, 0.0)
        s += r[:, None] + c[None, :]
    return s


@triton.jit
def find_false_negatives(judged, x_limit, y_limit, i, j, stop, N, kx, ky, near):
    """Returns which pairs leave their rows' denominators, and which their columns': cosines above a limit, but those of
    positives. judged: the cosines, of the features themselves or of a guide's.
    """
    from_rows = judged > tl.load(x_limit + i, i < stop, float("inf"))[:, None]
    from_columns = judged > tl.load(y_limit + j, j < N, float("inf"))[None, :]
    if near:
        apart = kx[:, None] != ky[None, :]
        from_rows = from_rows & apart
        from_columns = from_columns & apart
    return from_rows, from_columns


@triton.jit
def _split_halves(tile, BM: tl.constexpr, BN: tl.constexpr):
    return tl.split(tl.permute(tl.reshape(tile, (BM, 2, BN // 2)), (0, 2, 1)))


@triton.jit
def split_strips(tile, BM: tl.constexpr, BN: tl.constexpr, STRIPS: tl.constexpr):
    """Splits a tile [BM, BN] into 2 or 4 strips [BM, BN / STRIPS], from left to right.

    What follows a product is done on one strip after the other: beside a whole tile its exponentials, gradients and
    vectors of columns would not fit in registers, and would spill to memory.
    """
    left, right = _split_halves(tile, BM, BN)
    if STRIPS == 2:
        return left, right
    else:  # noqa: RET505 # the compiler drops a branch, not what follows it
        a, b = _split_halves(left, BM, BN // 2)
        c, d = _split_halves(right, BM, BN // 2)
        return a, b, c, d


@triton.jit
def load_keys(key, at, stop, ABSENT: tl.constexpr):
    """Loads the keys of some rows or columns; what lies past the end is absent."""
    return tl.load(key + at, at < stop, ABSENT)


@triton.jit
def _wider(least, most, lowest, other_least, other_most, other_lowest):
    return min(least, other_least), max(most, other_most), min(lowest, other_lowest)


@triton.jit
def find_span(key):
    """Returns (least of the present keys, most, least of all), in one reduction."""
    far: tl.constexpr = 0x7FFFFFFF
    return tl.reduce((tl.where(key < 0, far, key), key, key), 0, _wider)


@triton.jit
def spans_meet(x_span, y_span):
    """Says whether a tile may hold positives: where ids are in some order on both sides, most tiles say no.

    Tiles that say no skip the comparison of BM x BN keys.
    """
    return (x_span[0] <= y_span[1]) & (y_span[0] <= x_span[1])


@triton.jit
def any_absent(x_span, y_span):
    """Says whether a tile has an absent row or column, or one past the end."""
    return (x_span[2] < 0) | (y_span[2] < 0)


@triton.jit
def mask_absent(kx, ky):
    """Marks the pairs with an absent item."""
    return (kx < 0)[:, None] | (ky < 0)[None, :]


@triton.jit
def span_itself(itself, i, stop, SELF: tl.constexpr):
    """Returns the first and the last column that is one of the rows i; without SELF nothing is read."""
    if SELF:
        span = find_span(tl.load(itself + i, i < stop, -1))
        return span[0], span[1]
    else:  # noqa: RET505 # the compiler drops a branch, not what follows it
        return 0, 0


@triton.jit
def meets_itself(span, column, BN: tl.constexpr):
    """Says whether the BN columns from this one on may hold an item paired with itself."""
    return (span[0] < column + BN) & (span[1] >= column)


@triton.jit
def mask_same(itself, i, j, stop):
    """Marks the pairs that are one and the same item; read here, as few tiles ask and registers are scarce."""
    return tl.load(itself + i, i < stop, -1)[:, None] == j[None, :]


@triton.jit
def mask_positive(kx, ky, itself, i, j, stop, SELF: tl.constexpr):
    """Marks the pairs that are positives; with SELF an item is no positive of its own."""
    pair = kx[:, None] == ky[None, :]
    if SELF:
        pair = pair & (mask_same(itself, i, j, stop) == 0)
    return pair


@triton.jit
def logistic(s):
    """Computes (sigma(s), softplus(s)) for s in nats, from one exponential.

    With e = exp(-|s|), softplus = max(s, 0) + log(1 + e), and log(1 + e) / e is a polynomial (Chebyshev interpolation
    on [0, 1], relative error 3.4e-8): right for small e, where the float32 1 + e is 1, and without a logarithm's
    branches and registers.
    """
    e = tl.exp2(-tl.abs(s) * 1.4426950408889634)
    inverse = 1.0 / (1.0 + e)
    p = 0.0775160868 - e * (0.0290740647 - e * 0.00512610214)
    p = 0.333181217 - e * (0.24835399 - e * (0.190768807 - e * (0.136022476 - e * p)))
    log1p = e * (0.999999966 - e * (0.49999445 - e * p))
    return tl.where(s >= 0, inverse, e * inverse), tl.maximum(s, 0.0) + log1p
