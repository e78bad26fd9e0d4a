"""What the ranks of a group owe one another when each holds a strip of the rows and all of the columns.

A row sees every column, so its sums are complete on its own rank. A column sees only its rank's rows: whatever is
summed over rows is reduced here. Reductions happen in the forward pass only; every rank must make the same calls in
the same order, so no call may depend on a rank's own data.

Trap: nothing here carries a gradient. Callers differentiate by hand (chunked) or reattach their strip (reference).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch.distributed import ProcessGroup


def sum_over(group: ProcessGroup | None, *shares: Tensor) -> tuple[Tensor, ...]:
    """Sums each tensor over the ranks; returns the tensors themselves where there is no group."""
    if group is None:
        return shares
    # One message in the place of several: what is summed is short, so that latency is all it costs
    flat = torch.cat([share.reshape(-1) for share in shares])
    dist.all_reduce(flat, dist.ReduceOp.SUM, group=group)
    sums = flat.split([share.numel() for share in shares])
    return tuple(total.view_as(share) for total, share in zip(sums, shares, strict=True))


def lse_over(group: ProcessGroup | None, lse: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Merges the ranks' log-sum-exps by their maximum and then their sum; -inf stands for a rank that has no row."""
    if group is None:
        return lse
    # Each rank subtracts the same maximum, so that no exponential overflows and the largest rank's is not rounded away
    top = lse.clone()
    dist.all_reduce(top, dist.ReduceOp.MAX, group=group)
    top = top.masked_fill(top.isneginf(), 0.0)  # -inf - -inf would be NaN where every rank's part is empty
    total = (lse - top).exp()
    dist.all_reduce(total, dist.ReduceOp.SUM, group=group)
    return top + total.log()


def gather_rows(group: ProcessGroup, x: Tensor) -> tuple[Tensor, int]:
    """Returns the strips of all ranks one below the other, and where this rank's begins.

    Strips may differ in length, which an all-gather does not take: each rank writes its rows into zeros, and the sum of
    all is the whole. That moves more bytes than needed, which the dense reference, its only caller, can afford.
    """
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    lengths = torch.zeros(size, dtype=torch.int64, device=x.device)
    lengths[rank] = len(x)
    dist.all_reduce(lengths, dist.ReduceOp.SUM, group=group)
    start = int(lengths[:rank].sum())
    rows = x.new_zeros(int(lengths.sum()), *x.shape[1:])
    rows[start : start + len(x)] = x
    dist.all_reduce(rows, dist.ReduceOp.SUM, group=group)
    return rows, start
