"""The losses in linear memory on any device: logits by chunks of rows, positives without a mask, gradients by hand.

With S = t X Y^T + b and G = dL/dS:  dL/dX = t G Y,  dL/dY = t G^T X,  dL/dt = <G Y, X>,  dL/db = sum_ij G_ij.
A loss computes its gradients together with its value, and backward only multiplies: S is formed once for the
log-sum-exps and once more for G (8 MND FLOPs; `each` three times, 10 MND), the sigmoid's once (6 MND).
contrast_lse, whose upstream gradient is a vector, forms S once forward and once backward.

Traps
- When x is y, both arguments' gradients are returned and autograd adds them; <G Y, X> is dL/dt through the left alone.
- It reads a few numbers back from the device (which exponential is safe, which rows are present): on CUDA it is
  correct, and slower than it could be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from kernels import softmax
from kernels.autograd import Computed, Gradients, first_derivative_only, full_precision, wanted
from kernels.distributed import sum_over
from kernels.logits import Logits, LogSumExp
from kernels.positives import positives_of
from kernels.side import Side, accumulation_dtype, as_given, scalar, self_column

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

_SOFTMAX = {"mean": softmax.mean, "logsum": softmax.logsum, "each": softmax.each}


def multi_positive_infonce(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Tensor | float,
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
    for_x, for_y, for_scale = wanted(x, y, scale)
    with torch.no_grad(), full_precision(x):
        rows, columns = _sides(x, x_ids, x_weight, y, y_ids, y_weight)
        itself = self_column(rows, columns, x_offset) if exclude_self else None
        logits = Logits(rows.z, columns.z, scalar(scale, rows.z), self_column=itself)
        P = positives_of(rows.ids, columns.ids, itself)
        loss = _SOFTMAX[positives](logits, P, softmax.means(P, rows, columns, symmetric, group), group)
        if not (for_x or for_y or for_scale):
            return loss.value

        y_operand, x_operand = logits.y if for_x or for_scale else None, logits.tx if for_y else None
        GY, GX = logits.products(loss.gradient, y_operand, x_operand)
        loss.finish(GY, GX)
        gradients = _gradients(logits, rows, columns, scale, GY, GX)
    return Computed.apply((loss.value, gradients), x, y, scale)


def multi_positive_sigmoid(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Tensor | float,
    bias: Tensor | float,
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
    L = sum_ij w_i v_j [softplus(S_ij) - P_ij S_ij],  G_ij = w_i v_j [sigmoid(S_ij) - P_ij],
    G Y = diag(w) [sigmoid(S) - P] diag(v) Y: the weights meet X and Y, never S.
    Few positives are turned around in S, as softplus(S) - S is softplus(-S) and sigmoid(S) - 1 is -sigmoid(-S), so that
    nothing cancels; many are subtracted as segment sums.
    """
    for_x, for_y, for_scale, for_bias = wanted(x, y, scale, bias)
    with torch.no_grad(), full_precision(x):
        rows, columns = _sides(x, x_ids, x_weight, y, y_ids, y_weight)
        itself = self_column(rows, columns, x_offset) if exclude_self else None
        t, b = scalar(scale, rows.z), scalar(bias, rows.z)
        logits = Logits(rows.z, columns.z, t, bias=b, self_column=itself)
        P = positives_of(rows.ids, columns.ids, itself)
        (total,) = sum_over(group, rows.weight.sum())
        w, v = rows.weight / total.clamp_min(torch.finfo(total.dtype).tiny), columns.weight
        cost, db = torch.zeros_like(t), torch.zeros_like(t)

        def sigmoid(chunk: slice, S: Tensor) -> Tensor:
            pairs = P.pairs(chunk) if P.few else None
            if pairs is not None:
                S[pairs] = -S[pairs]
            cost.add_(w[chunk] @ (softplus(S, threshold=40.0) @ v))  # with this threshold exact in float64 too
            S.sigmoid_()
            if pairs is not None:
                S[pairs] = -S[pairs]
            db.add_(w[chunk] @ (S @ v))
            return S

        vy, wx = logits.y * v[:, None], logits.tx * w[:, None]
        GY, GX = logits.products(sigmoid, vy if for_x or for_scale else None, wx if for_y else None)
        if not P.few:
            PY, num_positives = P.rows(vy), w @ P.rows(v[:, None])[:, 0]
            cost.sub_((wx * PY).sum() + b * num_positives)
            db.sub_(num_positives)
            GY = None if GY is None else GY.sub_(PY)
            GX = None if GX is None else GX.sub_(P.columns(wx))
        (value,) = sum_over(group, cost)
        value = value.clamp_min(0.0)  # as every term is; what is below comes from the rounding of softplus(S) - S
        if not (for_x or for_y or for_scale or for_bias):
            return value

        GY = None if GY is None else GY.mul_(w[:, None])
        GX = None if GX is None else GX.mul_(v[:, None])
        gradients = (*_gradients(logits, rows, columns, scale, GY, GX), as_given(db, bias))
    return Computed.apply((value, gradients), x, y, scale, bias)


def contrast_lse(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Tensor | float,
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
        x_, y_ = (z.to(accumulation_dtype(x, y)) for z in (x, y))
        t = scalar(scale, x_)
        with full_precision(x):
            lse = Logits(x_, y_, t, **excluded).lse(group)
        ctx.save_for_backward(x, y, t, lse.row, lse.column)
        ctx.excluded, ctx.moderate = excluded, lse.moderate
        ctx.scale = scale.new_empty(scale.shape) if isinstance(scale, Tensor) else scale
        return lse.row, lse.column

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, g: Float[Tensor, " m"], h: Float[Tensor, " n"]) -> Gradients:
        x, y, t, row, column = ctx.saved_tensors
        need_x, need_y, need_scale, *_ = ctx.needs_input_grad
        logits, lse = Logits(x.to(t.dtype), y.to(t.dtype), t, **ctx.excluded), LogSumExp(row, column, ctx.moderate)

        def gradient(rows: slice, S: Tensor) -> Tensor:
            return lse.gradient(rows, S, g, h)

        with full_precision(x):
            y_operand, x_operand = logits.y if need_x or need_scale else None, logits.tx if need_y else None
            GY, GX = logits.products(gradient, y_operand, x_operand)
        dt = None if GY is None else as_given((GY * logits.x).sum(), ctx.scale)
        return None if GY is None else GY.mul_(t), GX, dt, None, None


def _sides(
    x: Tensor, x_ids: Tensor, x_weight: Tensor | None, y: Tensor, y_ids: Tensor, y_weight: Tensor | None
) -> tuple[Side, Side]:
    dtype = accumulation_dtype(x, y)
    return Side(x, x_ids, x_weight, dtype), Side(y, y_ids, y_weight, dtype)


def _gradients(
    logits: Logits, rows: Side, columns: Side, scale: Tensor | float, GY: Tensor | None, GX: Tensor | None
) -> Gradients:
    """dL/dx, dL/dy and dL/dscale from (G Y, t G^T X)."""
    if GY is None:
        return None, columns.all_items(GX), None
    dt = as_given((GY * logits.x).sum(), scale)
    return rows.all_items(GY.mul_(logits.t)), columns.all_items(GX), dt
