"""What the ranks of a group owe one another when each holds a strip of the rows and all of the columns.

A row sees every column, so its sums are complete on its own rank. A column sees only its rank's rows: whatever is
summed over rows is reduced here. Reductions happen in the forward pass only; every rank must make the same calls in
the same order, so no call may depend on a rank's own data.

Trap: nothing here carries a gradient. Callers differentiate by hand (chunked) or reattach their strip (reference).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def sum_over(group: Any, *parts: Tensor) -> tuple[Tensor, ...]:
    """The sum of each tensor over the ranks, in one all-reduce; the tensors themselves when there is no group."""
    if group is None:
        return parts
    flat = torch.cat([part.reshape(-1) for part in parts])
    dist.all_reduce(flat, dist.ReduceOp.SUM, group=group)
    sums = flat.split([part.numel() for part in parts])
    return tuple(total.view_as(part) for total, part in zip(sums, parts, strict=True))


def lse_over(group: Any, lse: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """log sum over ranks of exp(lse), by the maximum and then the sum. -inf is an empty part and stays harmless."""
    if group is None:
        return lse
    top = lse.clone()
    dist.all_reduce(top, dist.ReduceOp.MAX, group=group)
    top = top.masked_fill(top.isneginf(), 0.0)  # -inf - -inf would be NaN where every rank's part is empty
    total = (lse - top).exp()
    dist.all_reduce(total, dist.ReduceOp.SUM, group=group)
    return top + total.log()


def gather_rows(group: Any, x: Tensor) -> tuple[Tensor, int]:
    """The strips of all ranks one below the other, and where this rank's begins. Strips may differ in length."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    lengths = torch.zeros(size, dtype=torch.int64, device=x.device)
    lengths[rank] = len(x)
    dist.all_reduce(lengths, dist.ReduceOp.SUM, group=group)
    start = int(lengths[:rank].sum())
    rows = x.new_zeros(int(lengths.sum()), *x.shape[1:])
    rows[start : start + len(x)] = x
    dist.all_reduce(rows, dist.ReduceOp.SUM, group=group)
    return rows, start
