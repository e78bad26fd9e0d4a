"""What every kernel does with one tile of logits: find its place, multiply, and know which of its pairs count.

Keys stand for ids: int32, equal where ids are, -1 for an absent row and -2 for an absent column, so that a pair with an
absent item is never positive. Rows and columns past the end load the same keys.

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
def place(index, num_row_tiles, num_column_tiles, GROUP: tl.constexpr):
    """(row tile, column tile) of a tile's number: GROUP row tiles at a time, so that their x stays in L2."""
    per_group = GROUP * num_column_tiles
    first = (index // per_group) * GROUP
    height = min(num_row_tiles - first, GROUP)
    return first + (index % per_group) % height, (index % per_group) // height


@triton.jit
def blocks(z, rows, columns, stride, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, TMA: tl.constexpr):
    """A matrix by blocks: with TMA z is a descriptor made by the host, else a pointer. On architectures without a
    tensor memory accelerator the host's descriptor would do, but slowly: that its rows are contiguous is known
    at compile time only here, and without it loads are neither wide nor asynchronous."""
    if not TMA:
        z = tl.make_tensor_descriptor(z, [rows, columns], [stride, 1], [HEIGHT, WIDTH])
    return z


@triton.jit
def product(
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
    """The tile of X Y^T that starts at (row, column), float32 [BM, BN]; D is a multiple of BK."""
    tile = tl.zeros((BM, BN), tl.float32)
    for k in range(0, D, BK):
        a, b = x.load([row, k]), y.load([column, k])
        if UPCAST:
            a, b = a.to(tl.float32), b.to(tl.float32)
        tile = tl.dot(a, b.T, tile, input_precision=PRECISION)
    return tile


@triton.jit
def _halves(tile, BM: tl.constexpr, BN: tl.constexpr):
    return tl.split(tl.permute(tl.reshape(tile, (BM, 2, BN // 2)), (0, 2, 1)))


@triton.jit
def strips(tile, BM: tl.constexpr, BN: tl.constexpr, STRIPS: tl.constexpr):
    """A tile [BM, BN] as 2 or 4 strips [BM, BN / STRIPS], from left to right. What follows a product is done on one
    strip after the other: beside a whole tile its exponentials, gradients and vectors of columns would not fit in
    registers."""
    left, right = _halves(tile, BM, BN)
    if STRIPS == 2:
        return left, right
    else:  # noqa: RET505 # the compiler drops a branch, not what follows it
        a, b = _halves(left, BM, BN // 2)
        c, d = _halves(right, BM, BN // 2)
        return a, b, c, d


@triton.jit
def keys(key, at, stop, ABSENT: tl.constexpr):
    return tl.load(key + at, at < stop, ABSENT)


@triton.jit
def _wider(least, most, lowest, other_least, other_most, other_lowest):
    return min(least, other_least), max(most, other_most), min(lowest, other_lowest)


@triton.jit
def span(key):
    """(least of the present keys, most, least of all) in one reduction."""
    far: tl.constexpr = 0x7FFFFFFF
    return tl.reduce((tl.where(key < 0, far, key), key, key), 0, _wider)


@triton.jit
def spans_meet(of_x, of_y):
    """Whether a tile may hold positives. Neighbouring ids in either order make most tiles answer no."""
    return (of_x[0] <= of_y[1]) & (of_y[0] <= of_x[1])


@triton.jit
def any_absent(of_x, of_y):
    return (of_x[2] < 0) | (of_y[2] < 0)


@triton.jit
def absent(kx, ky):
    return (kx < 0)[:, None] | (ky < 0)[None, :]


@triton.jit
def meets_diagonal(row, column, x_offset, BM: tl.constexpr, BN: tl.constexpr):
    """Whether a tile that starts at (row, column) may hold an item paired with itself."""
    return (row + x_offset < column + BN) & (column < row + x_offset + BM)


@triton.jit
def same(i, j, x_offset):
    """Pairs that are one and the same item."""
    return (i + x_offset)[:, None] == j[None, :]


@triton.jit
def positive(kx, ky, i, j, x_offset, SELF: tl.constexpr):
    """Pairs that are positives; with SELF an item is no positive of its own."""
    pair = kx[:, None] == ky[None, :]
    if SELF:
        pair = pair & (same(i, j, x_offset) == 0)
    return pair


@triton.jit
def logistic(s):
    """(sigma(s), softplus(s)) for s in nats. With e = exp(-|s|), softplus = max(s, 0) + log(1 + e), and log(1 + e) / e
    is a polynomial (Chebyshev interpolation on [0, 1], relative error 3.4e-8): right for small e, where the float32
    1 + e is 1, and without a logarithm's branches and registers."""
    e = tl.exp2(-tl.abs(s) * 1.4426950408889634)
    inverse = 1.0 / (1.0 + e)
    p = 0.0775160868 - e * (0.0290740647 - e * 0.00512610214)
    p = 0.333181217 - e * (0.24835399 - e * (0.190768807 - e * (0.136022476 - e * p)))
    log1p = e * (0.999999966 - e * (0.49999445 - e * p))
    return tl.where(s >= 0, inverse, e * inverse), tl.maximum(s, 0.0) + log1p
