"""The losses as their definitions say, dense, differentiated by autograd: what the other backends are tested against.

float64 inputs are computed in float64, which makes this the oracle; all others in float32. The public functions take
what those of `kernels` take, and check nothing.
Trap: it holds several M x N matrices (over a group, one of all ranks' rows). It is for tests and small batches.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from kernels.autograd import accumulation_dtype, without_autocast
from kernels.distributed import gather_rows
from kernels.problem import Average, Exclude, Problem

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Integer
    from torch.distributed import ProcessGroup


def contrast_lse(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Tensor | float,
    *,
    exclude: Exclude = "none",
    x_ids: Integer[Tensor, " m"] | None = None,
    y_ids: Integer[Tensor, " n"] | None = None,
    x_offset: int = 0,
    group: ProcessGroup | None = None,
) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    """Computes kernels.contrast_lse from the definition, without checking the arguments."""
    t = _make_scalar(scale, x, y)
    return lse(Problem(x=x, y=y, scale=t, x_ids=x_ids, y_ids=y_ids, exclude=exclude, x_offset=x_offset, group=group))


def multi_positive_infonce(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Tensor | float,
    x_ids: Integer[Tensor, " m"],
    y_ids: Integer[Tensor, " n"],
    *,
    positives: Average = "mean",
    exclude_self: bool = False,
    x_weight: Tensor | None = None,
    y_weight: Tensor | None = None,
    x_log_weight: Tensor | None = None,
    y_log_weight: Tensor | None = None,
    symmetric: bool = True,
    label_smoothing: float = 0.0,
    hardness: float = 0.0,
    false_negative_margin: float | None = None,
    relative_margin: bool = False,
    x_guide: Float[Tensor, "m e"] | None = None,
    y_guide: Float[Tensor, "n e"] | None = None,
    x_offset: int = 0,
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    """Computes kernels.multi_positive_infonce from the definition, without checking the arguments."""
    return infonce(
        Problem(
            x=x,
            y=y,
            scale=_make_scalar(scale, x, y),
            x_ids=x_ids,
            y_ids=y_ids,
            x_weight=x_weight,
            y_weight=y_weight,
            x_log_weight=x_log_weight,
            y_log_weight=y_log_weight,
            exclude="self" if exclude_self else "none",
            x_offset=x_offset,
            positives=positives,
            symmetric=symmetric,
            label_smoothing=label_smoothing,
            hardness=hardness,
            false_negative_margin=false_negative_margin,
            relative_margin=relative_margin,
            x_guide=x_guide,
            y_guide=y_guide,
            group=group,
        )
    )


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
    group: ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    """Computes kernels.multi_positive_sigmoid from the definition, without checking the arguments."""
    return sigmoid(
        Problem(
            x=x,
            y=y,
            scale=_make_scalar(scale, x, y),
            bias=_make_scalar(bias, x, y),
            x_ids=x_ids,
            y_ids=y_ids,
            x_weight=x_weight,
            y_weight=y_weight,
            exclude="self" if exclude_self else "none",
            x_offset=x_offset,
            group=group,
        )
    )


def khatri_rao_lse(
    x: Float[Tensor, "m d"], y: Float[Tensor, "n d"], z: Float[Tensor, "k d"], scale: Tensor | float
) -> Float[Tensor, " m"]:
    """Computes kernels.khatri_rao_lse from the definition, which holds M x N x K logits, without checking arguments."""
    dtype = torch.promote_types(accumulation_dtype(x, y), accumulation_dtype(z, z))
    scale = torch.as_tensor(scale, dtype=dtype, device=x.device).reshape(())
    with without_autocast(x):
        S = scale * torch.einsum("id,jd,kd->ijk", x.to(dtype), y.to(dtype), z.to(dtype))
        return S.flatten(1).logsumexp(1)


def lse(problem: Problem) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    """Computes the log-sum-exps of the rows and of the columns of S."""
    x, y = problem.x, problem.y
    S = _compute_logits(x, y, problem)
    keep = torch.ones_like(S, dtype=torch.bool)
    if problem.exclude == "self":
        keep = ~_mask_itself(x, y, problem.x_offset)
    elif problem.exclude == "group":
        x_ids, y_ids = problem.ids
        keep = x_ids[:, None] != y_ids
    row = _reduce_lse(S, keep)
    S, keep = _gather_all_rows(problem.group, S, keep)
    return row, _reduce_lse(S.T, keep.T)


def infonce(problem: Problem) -> Float[Tensor, ""]:
    """Computes InfoNCE: the mean loss of the rows that have a positive, averaged with the columns' if symmetric."""
    S, keep, P, w, v = _compare_pairs(problem)
    P = keep & P
    judged, cosine = _judge_pairs(problem), _judge_pairs(replace(problem, x_guide=None, y_guide=None))
    S, keep, P, w, cosine, judged = _gather_all_rows(problem.group, S, keep, P, w, cosine, judged)
    H = problem.hardness * torch.where(P, 0.0, cosine)
    rows = _average_rows(S, H, _drop_false_negatives(keep, P, judged, problem), P, w, problem)
    if not problem.symmetric:
        return rows
    keep = _drop_false_negatives(keep.T, P.T, judged.T, problem)
    return (rows + _average_rows(S.T, H.T, keep, P.T, v, problem)) / 2


def sigmoid(problem: Problem) -> Float[Tensor, ""]:
    """Computes the sigmoid loss: the sum over all pairs, divided by the sum of the row weights."""
    S, keep, P, w, v = _compare_pairs(problem)
    S, keep, P, w = _gather_all_rows(problem.group, S, keep, P, w)
    cost = -torch.where(P, logsigmoid(S), logsigmoid(-S))  # softplus(S) - P S
    return (w[:, None] * v * torch.where(keep, cost, 0.0)).sum() / _clamp_positive(w.sum())


def _compare_pairs(problem: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns the logits, which pairs count, which have equal ids (all [M, N]), and the weights of rows and columns."""
    x, w = _silence_absent(problem.x, problem.x_weight)
    y, v = _silence_absent(problem.y, problem.y_weight)
    S = _compute_logits(x, y, problem)
    keep = (w[:, None] > 0) & (v > 0)
    if problem.exclude == "self":
        keep &= ~_mask_itself(x, y, problem.x_offset)
    x_ids, y_ids = problem.ids
    return S, keep, x_ids[:, None] == y_ids, w, v


def _judge_pairs(problem: Problem) -> Float[Tensor, "m n"]:
    """Returns the cosines that tell false negatives, which get no gradient."""
    x, y = (z if guide is None else guide for z, guide in ((problem.x, problem.x_guide), (problem.y, problem.y_guide)))
    dtype = accumulation_dtype(problem.x, problem.y)
    with torch.no_grad(), without_autocast(x):
        return x.to(dtype) @ y.to(dtype).T


def _drop_false_negatives(
    keep: Bool[Tensor, "m n"], P: Bool[Tensor, "m n"], cosine: Float[Tensor, "m n"], problem: Problem
) -> Bool[Tensor, "m n"]:
    """Takes out of each row what is nearer than its positives are on average, by more than the margin."""
    margin = problem.false_negative_margin
    if margin is None:
        return keep
    mean = torch.where(P, cosine, 0.0).sum(1) / P.sum(1)  # NaN without a positive, above which is nothing
    tie = 16 * torch.finfo(cosine.dtype).eps  # the copy of a positive is as near as it is, whatever rounding says
    limit = mean + margin * (mean.abs() if problem.relative_margin else 1.0) + tie
    return keep & (P | ~(cosine > limit[:, None]))


def _average_rows(
    S: Float[Tensor, "m n"],
    H: Float[Tensor, "m n"],
    keep: Bool[Tensor, "m n"],
    P: Bool[Tensor, "m n"],
    w: Float[Tensor, " m"],
    problem: Problem,
) -> Float[Tensor, ""]:
    """Averages the losses of the rows that have a positive, weighted by w; 0 where no row has one.

    H is added to the logits of negatives where they are in a denominator.
    """
    n, e = P.sum(1), problem.label_smoothing
    if problem.positives == "each":
        negatives = _reduce_lse(S + H, keep & ~P)[:, None]
        # log(e^S + e^negatives) - S
        of_pairs = -logsigmoid(S - negatives)
        if e:
            apart = keep & ~P
            candidates = S + torch.where(apart, S, 0.0).sum(1, keepdim=True)
            of_pairs = of_pairs + e * (S - candidates / (1 + apart.sum(1, keepdim=True)))
        loss = torch.where(P, of_pairs, 0.0).sum(1) / n.clamp(min=1)
    else:
        mean = torch.where(P, S, 0.0).sum(1) / n.clamp(min=1)
        loss = _reduce_lse(S + H, keep) - (1 - e) * (mean if problem.positives == "mean" else _reduce_lse(S, P))
        if e:
            loss = loss - e * torch.where(keep, S, 0.0).sum(1) / keep.sum(1).clamp(min=1)
    w = w * (n > 0)
    # inf or NaN of a row without a positive has to go before it meets the weight 0, with which it would be NaN
    return (w * torch.where(n > 0, loss, 0.0)).sum() / _clamp_positive(w.sum())


def _silence_absent(z: Float[Tensor, "n d"], weight: Tensor | None) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
    """Returns absent items as zeros, and the weights: what an absent item holds, NaN included, reaches no gradient."""
    if weight is None:
        return z, torch.ones(len(z), dtype=accumulation_dtype(z, z), device=z.device)
    return torch.where(weight[:, None] > 0, z, 0.0), weight.to(accumulation_dtype(z, z))


def _make_scalar(value: Tensor | float, x: Tensor, y: Tensor) -> Float[Tensor, ""]:
    """Returns a scale or bias in the dtype of the logits."""
    return torch.as_tensor(value, dtype=accumulation_dtype(x, y), device=x.device).reshape(())


def _compute_logits(x: Float[Tensor, "m d"], y: Float[Tensor, "n d"], problem: Problem) -> Float[Tensor, "m n"]:
    dtype = accumulation_dtype(x, y)
    bias = 0.0 if problem.bias is None else problem.bias
    with without_autocast(x):
        S = problem.scale * (x.to(dtype) @ y.to(dtype).T) + bias
    if log_weights := problem.log_weights:
        r, c = log_weights
        S = S + r.to(dtype)[:, None] + c.to(dtype)
    return S


def _mask_itself(x: Tensor, y: Tensor, x_offset: int) -> Bool[Tensor, "m n"]:
    """Marks the pairs that are one and the same item."""
    row, column = torch.arange(len(x), device=x.device), torch.arange(len(y), device=x.device)
    return row[:, None] + x_offset == column


def _reduce_lse(S: Float[Tensor, "m n"], keep: Bool[Tensor, "m n"]) -> Float[Tensor, " m"]:
    """Computes each row's log-sum-exp over what is kept: -inf, with gradient 0, where nothing is."""
    some = keep.any(1)
    safe = torch.where(keep, S, -torch.inf).masked_fill(~some[:, None], 0.0)  # logsumexp of -inf alone has gradient NaN
    return torch.where(some, safe.logsumexp(1), -torch.inf)


def _gather_all_rows(group: ProcessGroup | None, S: Float[Tensor, "m n"], *others: Tensor) -> tuple[Tensor, ...]:
    """Puts the rows of all ranks one below the other.

    Only this rank's rows of S carry a gradient, so that y, scale and bias get its own share.
    """
    if group is None:
        return S, *others
    strips, start = gather_rows(group, S.detach())
    S = torch.cat([strips[:start], S, strips[start + len(S) :]])
    # reductions know no booleans
    return S, *(gather_rows(group, other.double())[0].to(other.dtype) for other in others)


def _clamp_positive(total: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Returns a sum of weights that is safe to divide 0 by."""
    return total.clamp(min=torch.finfo(total.dtype).tiny)
