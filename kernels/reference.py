"""The losses as their definitions say, dense, differentiated by autograd: what the other backends are tested against.

float64 inputs are computed in float64, which makes this the oracle; all others in float32.
Trap: it holds several M x N matrices (over a group, one of all ranks' rows). It is for tests and small batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from kernels.autograd import accumulation_dtype, full_precision
from kernels.distributed import gather_rows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Integer


def contrast_lse(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Tensor | float,
    *,
    exclude: Literal["none", "self", "group"] = "none",
    x_ids: Integer[Tensor, " m"] | None = None,
    y_ids: Integer[Tensor, " n"] | None = None,
    x_offset: int = 0,
    group: Any = None,
) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    """As kernels.contrast_lse, arguments unchecked."""
    S = _logits(x, y, scale)
    keep = torch.ones_like(S, dtype=torch.bool)
    if exclude == "self":
        keep = ~_itself(x, y, x_offset)
    elif exclude == "group":
        assert x_ids is not None
        assert y_ids is not None
        keep = x_ids[:, None] != y_ids
    row = _lse(S, keep)
    S, keep = _all_rows(group, S, keep)
    return row, _lse(S.T, keep.T)


def multi_positive_infonce(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Tensor | float,
    x_ids: Integer[Tensor, " m"],
    y_ids: Integer[Tensor, " n"],
    *,
    positives: Literal["mean", "logsum", "each"] = "mean",
    exclude_self: bool = False,
    x_weight: Tensor | None = None,
    y_weight: Tensor | None = None,
    symmetric: bool = True,
    x_offset: int = 0,
    group: Any = None,
) -> Float[Tensor, ""]:
    """As kernels.multi_positive_infonce, arguments unchecked."""
    x, w = _present(x, x_weight)
    y, v = _present(y, y_weight)
    S = _logits(x, y, scale)
    keep = (w[:, None] > 0) & (v > 0)
    if exclude_self:
        keep &= ~_itself(x, y, x_offset)
    P = keep & (x_ids[:, None] == y_ids)
    S, keep, P, w = _all_rows(group, S, keep, P, w)
    rows = _mean_over_rows(S, keep, P, w, positives)
    return (rows + _mean_over_rows(S.T, keep.T, P.T, v, positives)) / 2 if symmetric else rows


def multi_positive_sigmoid(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Tensor | float,
    bias: Tensor | float,
    x_ids: Integer[Tensor, " m"],
    y_ids: Integer[Tensor, " n"],
    *,
    exclude_self: bool = False,
    x_weight: Tensor | None = None,
    y_weight: Tensor | None = None,
    x_offset: int = 0,
    group: Any = None,
) -> Float[Tensor, ""]:
    """As kernels.multi_positive_sigmoid, arguments unchecked."""
    x, w = _present(x, x_weight)
    y, v = _present(y, y_weight)
    S = _logits(x, y, scale, bias)
    keep = (w[:, None] > 0) & (v > 0)
    if exclude_self:
        keep &= ~_itself(x, y, x_offset)
    P = x_ids[:, None] == y_ids
    S, keep, P, w = _all_rows(group, S, keep, P, w)
    cost = -torch.where(P, logsigmoid(S), logsigmoid(-S))  # softplus(S) - P S
    return (w[:, None] * v * torch.where(keep, cost, 0.0)).sum() / _positive(w.sum())


def khatri_rao_lse(
    x: Float[Tensor, "m d"], y: Float[Tensor, "n d"], z: Float[Tensor, "k d"], scale: Tensor | float
) -> Float[Tensor, " m"]:
    """As kernels.khatri_rao_lse, arguments unchecked. It holds M x N x K logits."""
    dtype = torch.promote_types(accumulation_dtype(x, y), accumulation_dtype(z, z))
    scale = torch.as_tensor(scale, dtype=dtype, device=x.device).reshape(())
    with full_precision(x):
        S = scale * torch.einsum("id,jd,kd->ijk", x.to(dtype), y.to(dtype), z.to(dtype))
        return S.flatten(1).logsumexp(1)


def _mean_over_rows(
    S: Float[Tensor, "m n"], keep: Bool[Tensor, "m n"], P: Bool[Tensor, "m n"], w: Float[Tensor, " m"], positives: str
) -> Float[Tensor, ""]:
    n = P.sum(1)
    if positives == "mean":
        loss = _lse(S, keep) - torch.where(P, S, 0.0).sum(1) / n.clamp(min=1)
    elif positives == "logsum":
        loss = _lse(S, keep) - _lse(S, P)
    else:
        negatives = _lse(S, keep & ~P)[:, None]
        # log(e^S + e^negatives) - S
        loss = torch.where(P, -logsigmoid(S - negatives), 0.0).sum(1) / n.clamp(min=1)
    w = w * (n > 0)
    return (w * torch.where(n > 0, loss, 0.0)).sum() / _positive(w.sum())


def _present(z: Float[Tensor, "n d"], weight: Tensor | None) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
    """Absent items as zeros: what they hold, NaN included, must not reach a gradient."""
    if weight is None:
        return z, torch.ones(len(z), dtype=accumulation_dtype(z, z), device=z.device)
    return torch.where(weight[:, None] > 0, z, 0.0), weight.to(accumulation_dtype(z, z))


def _logits(x: Tensor, y: Tensor, scale: Tensor | float, bias: Tensor | float = 0.0) -> Float[Tensor, "m n"]:
    dtype = accumulation_dtype(x, y)
    scale = torch.as_tensor(scale, dtype=dtype, device=x.device).reshape(())
    bias = torch.as_tensor(bias, dtype=dtype, device=x.device).reshape(())
    with full_precision(x):
        return scale * (x.to(dtype) @ y.to(dtype).T) + bias


def _itself(x: Tensor, y: Tensor, x_offset: int) -> Bool[Tensor, "m n"]:
    row, column = torch.arange(len(x), device=x.device), torch.arange(len(y), device=x.device)
    return row[:, None] + x_offset == column


def _lse(S: Float[Tensor, "m n"], keep: Bool[Tensor, "m n"]) -> Float[Tensor, " m"]:
    """log-sum-exp of each row over what is kept; -inf, with gradient 0, where nothing is."""
    some = keep.any(1)
    safe = torch.where(keep, S, -torch.inf).masked_fill(~some[:, None], 0.0)  # logsumexp of -inf alone has gradient NaN
    return torch.where(some, safe.logsumexp(1), -torch.inf)


def _all_rows(group: Any, S: Float[Tensor, "m n"], *others: Tensor) -> tuple[Tensor, ...]:
    """Every rank's rows. Only this rank's rows of S carry a gradient, so that y, scale and bias get its own share."""
    if group is None:
        return S, *others
    strips, start = gather_rows(group, S.detach())
    S = torch.cat([strips[:start], S, strips[start + len(S) :]])
    return S, *(gather_rows(group, other.double())[0].to(other.dtype) for other in others)


def _positive(total: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """A sum of weights, safe to divide 0 by."""
    return total.clamp(min=torch.finfo(total.dtype).tiny)
