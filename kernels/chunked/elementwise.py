"""What is done to each logit of a chunk, in as few passes over memory as may be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

BLOCK_CELLS = 2**17
"""logits that elementwise passes take at a time: 512 KiB in float32, which a core's own cache about holds"""
LOG2_E = 1 / math.log(2.0)


def exp_(S: Tensor) -> Tensor:
    """Writes exp(S) into S. torch takes its exp from MKL, which on AMD is three times as slow as its own exp2."""
    return S.mul_(LOG2_E).exp2_()


def softplus(S: Tensor) -> Tensor:
    """Computes log(1 + exp S) = max(S, 0) + 2 artanh(u / (2 + u)) with u = exp -|S|.

    That is as exact as S, whose own rounding weighs as much, in a quarter of the time of torch's, which takes log1p.
    """
    u = exp_(S.abs().neg_())
    return S.clamp_min(0.0).add_(u.div_(u + 2).atanh_(), alpha=2)


def write_sigmoid(S: Tensor) -> Tensor:
    """Computes softplus(S), and writes its derivative sigmoid(S) into S."""
    if S.numel() > 0 and float(S.amax()) > 0:
        cost = softplus(S)
        S.sigmoid_()
        return cost
    # Usually no logit is above 0: with u = exp(S) both are fractions of u, and the signs need no passes
    u = exp_(S)
    cost = (u / (u + 2)).atanh_().mul_(2)
    u.div_(u + 1)
    return cost


def split_blocks(S: Float[Tensor, "m n"], *per_row: Float[Tensor, " m"]) -> Iterator[tuple[Tensor, ...]]:
    """Yields a few rows at a time of S and of vectors with an entry for each of its rows, as views of their memory.

    An elementwise loss is several passes over a block. They find it in the cache, where passes over a whole chunk would
    each fetch it from memory again.
    """
    step = max(BLOCK_CELLS // max(S.shape[1], 1), 1)
    if S.shape[0] <= step:
        return iter([(S, *per_row)])
    return zip(*(v.split(step) for v in (S, *per_row)), strict=True)
