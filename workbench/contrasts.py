"""Rows as the kernels see them, and the one contrast that no kernel has: alignment and uniformity of centroids.

Everything here knows rows, ids and weights, and neither terms nor recipes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from kernels import contrast_lse
from workbench.types import View

if TYPE_CHECKING:
    from workbench.types import Pool


class TermRows(NamedTuple):
    """One side of a term as the kernels see it."""

    z: Float[Tensor, "m d"]
    ids: Int64[Tensor, " m"]
    weight: Float[Tensor, " m"] | None
    """1 where the row exists, else 0; None when all do"""


class Contrasted(NamedTuple):
    """One term's value."""

    loss: Float[Tensor, ""]
    positives: Float[Tensor, ""]
    """share of the pool's rows that have a positive: where it is 0 the loss is 0, too, and nothing is learned"""


def all_rows(view: View, ids: Tensor) -> TermRows:
    """Make every view of every sample a row of its own, which has the sample's id."""
    k = view.z.shape[1]
    return TermRows(view.z.flatten(0, 1), ids.repeat_interleave(k), weight_of(view.valid.flatten()))


def rows_of_view(view: View, v: int) -> Float[Tensor, "b d"]:
    """Give one view of every sample."""
    # what has no other view is not cut out, which would write a gradient of zeros and add to it
    return view.z.squeeze(1) if view.z.shape[1] == 1 else view.z[:, v]


def weight_of(valid: Bool[Tensor, " m"]) -> Float[Tensor, " m"] | None:
    """Give a row weight 1 where it exists, else 0; None where all do, as kernels are faster without weights."""
    # asking is free on a CPU; on a GPU the answer would cost a stall
    return None if valid.is_cpu and valid.all() else valid.float()


def shown(terms: Mapping[str, Contrasted], scale: Float[Tensor, 1]) -> dict[str, Tensor]:
    """List what is shown of terms: their losses, their shares of rows that have a positive, and the scale."""
    logs = {f"loss/{name}": found.loss.detach() for name, found in terms.items()}
    logs |= {f"positives/{name}": found.positives for name, found in terms.items()}
    return logs | {"scale": scale.detach()[0]}


def share_with_positive(x: TermRows, y: TermRows, others: int) -> Float[Tensor, ""]:
    """Compute the share of rows of x whose id more than `others` rows of y have.

    `others` is 1 where x is y, as no row is its own positive.
    """
    if x.weight is None and y.weight is None:
        return torch.ones((), device=x.z.device)  # as every sample has rows on both sides, two or more on its own
    matched = (count_of_each(x.ids, y) > others).float()
    return (matched if x.weight is None else matched * x.weight).mean()


def count_of_each(ids: Int64[Tensor, " m"], y: TermRows) -> Float[Tensor, " m"]:
    """Count the existing rows of y that have each id.

    By sorting, as a matrix of all pairs would not fit, and without an answer that the CPU waits for.
    """
    exist = torch.ones(len(y.ids), device=y.ids.device) if y.weight is None else y.weight
    known, order = y.ids.sort()
    below = F.pad(exist[order].cumsum(0), (1, 0))
    return below[torch.searchsorted(known, ids, right=True)] - below[torch.searchsorted(known, ids)]


def align_uniform(
    mine: tuple[Float[Tensor, "m d"], Float[Tensor, "m d"]],
    everyone: tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]],
    exist: Bool[Tensor, " n"],
    pool: Pool,
) -> Float[Tensor, ""]:
    """Compute mean |u_i - w_i|^2 + log mean exp(-2 |c_i - c_j|^2), c_i = (u_i + w_i) / 2, over pairs that `exist`.

    The second mean runs over i and j of different ids. It is the loss that closes the modality gap in "Closing the
    Modality Gap Aligns Group-Wise Semantics" (Grassucci et al., ICLR 2026, arXiv 2601.18525); the authors' code brings
    the centroids to unit length first, their formula does not. As with the kernels, the value is that of all ranks'
    rows, and the gradient this rank's share. Linear memory.
    """
    (u, w), (all_u, all_w), m = mine, everyone, len(mine[0])
    own, count = slice(pool.offset, pool.offset + m), exist.sum().clamp(min=1)
    apart = (all_u - all_w).square().sum(1) * exist
    # every rank computes this term of all rows, and the gradients of all ranks are summed
    alignment = scale_gradient(apart.sum() / count, 1 / pool.world)

    # -2 |c_i - c_j|^2 as one inner product; what does not exist is so far away that its exponential is 0
    c, everywhere = (u + w) / 2, (all_u + all_w) / 2
    away = torch.where(exist, 0.0, -1e4)
    x = torch.cat([4 * c, _column(-2 * c.square().sum(1) + away[own]), c.new_ones(m, 1)], 1)
    y = torch.cat([everywhere, everywhere.new_ones(len(exist), 1), _column(-2 * everywhere.square().sum(1) + away)], 1)
    lse = contrast_lse(x, y, 1.0, exclude="group", x_ids=pool.ids[own], y_ids=pool.ids, group=pool.group)[1]
    rows = TermRows(everywhere, pool.ids, exist.float())
    strangers = (exist * (exist.sum() - count_of_each(pool.ids, rows))).sum()
    # where nobody has a stranger every sum is -inf, of which logsumexp has no gradient
    lse = torch.where(strangers > 0, lse, 0.0)
    return alignment + torch.where(strangers > 0, lse.logsumexp(0) - strangers.clamp(min=1).to(lse.dtype).log(), 0.0)


def _column(x: Float[Tensor, " m"]) -> Float[Tensor, "m 1"]:
    return x[:, None]


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return the same value with `factor` times the gradient."""
    return x if factor == 1 else x * factor - (x * (factor - 1)).detach()
