"""The losses in linear memory on any device: logits by chunks of rows, positives by segment sums, gradients by hand.

With S = t X Y^T + b and G = dL/dS:  dL/dX = t G Y,  dL/dY = t G^T X,  dL/dt = <G Y, X>,  dL/db = sum_ij G_ij.
A loss computes its gradients together with its value, so that S is formed twice (softmax: first the log-sum-exps, then G;
8 MND FLOPs) or once (sigmoid: 6 MND), and backward only multiplies. contrast_lse, whose upstream gradient is a vector,
forms S once forward and once backward.

Traps
- When x is y, both arguments' gradients are returned and autograd adds them; <G Y, X> is dL/dt from the left one alone.
- It reads a few numbers back from the device (which exponential is safe, which rows are present): right on CUDA, but slower
  than it could be.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from kernels import softmax
from kernels.autograd import (
    Computed,
    Gradients,
    Side,
    accumulation_dtype,
    full_precision,
    in_form,
    scalar,
    self_column,
    wants_gradient,
)
from kernels.distributed import lse_over, sum_over
from kernels.logits import Logits, softmax_gradient
from kernels.positives import Positives

_SOFTMAX = {"mean": softmax.mean, "logsum": softmax.logsum, "each": softmax.each}


def multi_positive_infonce(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Float[Tensor, ""] | float,
    x_ids: Int64[Tensor, " m"],
    y_ids: Int64[Tensor, " n"],
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
    with torch.no_grad(), full_precision(x):
        rows, columns = _sides(x, x_ids, x_weight, y, y_ids, y_weight)
        itself = self_column(rows, columns, x_offset) if exclude_self else None
        t = scalar(scale, rows.z)
        logits = Logits(rows.z, columns.z, t, self_column=itself)
        P = Positives(rows.ids, columns.ids, itself, rows.z.dtype)
        (m,) = sum_over(group, P.column_counts)
        half = 0.5 if symmetric else 1.0
        a = _share(rows.weight * (P.row_counts > 0), half, group)
        b = _share(columns.weight * (m > 0), 1.0 - half, None)
        problem = softmax.Problem(logits, P, a, b, P.row_counts.clamp_min(1.0), m.clamp_min(1.0), group)
        loss = _SOFTMAX[positives](problem)
        if not wants_gradient(x, y, scale):
            return loss.value

        GY, GX = logits.products(loss.gradient, wants_gradient(x, scale), wants_gradient(y))
        if loss.finish is not None:
            loss.finish(GY, GX)
        gradients = _gradients(logits, rows, columns, GY, GX)
    return Computed.apply((loss.value, gradients), x, y, scale)


def multi_positive_sigmoid(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Float[Tensor, ""] | float,
    bias: Float[Tensor, ""] | float,
    x_ids: Int64[Tensor, " m"],
    y_ids: Int64[Tensor, " n"],
    *,
    exclude_self: bool = False,
    x_weight: Tensor | None = None,
    y_weight: Tensor | None = None,
    x_offset: int = 0,
    group: Any = None,
) -> Float[Tensor, ""]:
    """As kernels.multi_positive_sigmoid, arguments unchecked.

    With w_i the row weights over their sum and v_j the column weights:
    L = sum_ij w_i v_j [softplus(S_ij) - P_ij S_ij],  G_ij = w_i v_j [sigmoid(S_ij) - P_ij].
    """
    with torch.no_grad(), full_precision(x):
        rows, columns = _sides(x, x_ids, x_weight, y, y_ids, y_weight)
        itself = self_column(rows, columns, x_offset) if exclude_self else None
        t, b = scalar(scale, rows.z), scalar(bias, rows.z)
        logits = Logits(rows.z, columns.z, t, bias=b, self_column=itself)
        P = Positives(rows.ids, columns.ids, itself, rows.z.dtype)
        w, v = _share(rows.weight, 1.0, group), columns.weight
        cost, db = torch.zeros_like(t), torch.zeros_like(t)

        def gradient(rows: slice, S: Tensor) -> Tensor:
            # L and dL/db are summed on the way: softplus is exact above 40 in float64 too
            cost.add_(w[rows] @ (softplus(S, threshold=40.0) @ v))
            G = S.sigmoid_().mul_(w[rows, None]).mul_(v)
            db.add_(G.sum())
            return G

        GY, GX = logits.products(gradient, wants_gradient(x, scale), wants_gradient(y))
        PY, num_positives = P.rows(columns.z, v) * w[:, None], w @ P.rows(v[:, None])
        (value,) = sum_over(group, cost - (logits.tx * PY).sum() - b * num_positives.sum())
        value = value.clamp_min(0.0)  # as every term is; what is below comes from the rounding of softplus(S) - S
        if not wants_gradient(x, y, scale, bias):
            return value

        if GY is not None:
            GY.sub_(PY)
        if GX is not None:
            GX.sub_(P.columns(logits.tx, w).mul_(v[:, None]))
        gradients = (*_gradients(logits, rows, columns, GY, GX), db - num_positives)
    return Computed.apply((value, gradients), x, y, scale, bias)


def contrast_lse(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Float[Tensor, ""] | float,
    *,
    exclude: Literal["none", "self", "group"] = "none",
    x_ids: Int64[Tensor, " m"] | None = None,
    y_ids: Int64[Tensor, " n"] | None = None,
    x_offset: int = 0,
    group: Any = None,
) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    """As kernels.contrast_lse, arguments unchecked."""
    itself = torch.arange(x_offset, x_offset + len(x), device=x.device) if exclude == "self" else None
    distinct = (x_ids, y_ids) if exclude == "group" else None
    return _ContrastLSE.apply(x, y, scale, {"self_column": itself, "distinct": distinct}, group)


class _ContrastLSE(torch.autograd.Function):
    """Row and column log-sum-exp; dL/dS_ij = g_i exp(S_ij - row_i) + h_j exp(S_ij - column_j) for upstream g and h."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor | float, excluded: dict[str, Any], group: Any
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
        dtype = accumulation_dtype(x, y)
        t = scalar(scale, x.new_empty(0, dtype=dtype))
        with full_precision(x):
            row, column = Logits(x.to(dtype), y.to(dtype), t, **excluded).lse()
        column = lse_over(group, column)
        ctx.save_for_backward(x, y, t, row, column)
        ctx.excluded, ctx.scale = excluded, (scale.dtype, scale.shape) if isinstance(scale, Tensor) else None
        return row, column

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Float[Tensor, " m"], h: Float[Tensor, " n"]) -> Gradients:
        x, y, t, row, column = ctx.saved_tensors
        need_x, need_y, need_scale, *_ = ctx.needs_input_grad
        logits = Logits(x.to(t.dtype), y.to(t.dtype), t, **ctx.excluded)

        def gradient(rows: slice, S: Tensor) -> Tensor:
            return softmax_gradient(S, row[rows], column, g[rows], h)

        with full_precision(x):
            GY, GX = logits.products(gradient, need_x or need_scale, need_y)
        dx = (GY * t).to(x.dtype) if GY is not None and need_x else None
        dy = GX.to(y.dtype) if GX is not None else None
        dt = in_form((GY * logits.x).sum(), ctx.scale) if GY is not None and need_scale else None
        return dx, dy, dt, None, None


def _sides(
    x: Tensor, x_ids: Tensor, x_weight: Tensor | None, y: Tensor, y_ids: Tensor, y_weight: Tensor | None
) -> tuple[Side, Side]:
    dtype = accumulation_dtype(x, y)
    return Side(x, x_ids, x_weight, dtype), Side(y, y_ids, y_weight, dtype)


def _share(weight: Float[Tensor, " n"], part: float, group: Any) -> Float[Tensor, " n"]:
    """part * weight / sum of weight over the group; 0 where that sum is 0."""
    (total,) = sum_over(group, weight.sum())
    return weight * (part / total.clamp_min(torch.finfo(weight.dtype).tiny))


def _gradients(logits: Logits, rows: Side, columns: Side, GY: Tensor | None, GX: Tensor | None) -> Gradients:
    """dL/dx, dL/dy and dL/dscale from (G Y, t G^T X)."""
    dt = None if GY is None else (GY * logits.x).sum()
    return rows.all_items(None if GY is None else GY * logits.t), columns.all_items(GX), dt
