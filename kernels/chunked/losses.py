"""The losses in linear memory on any device: logits by chunks of rows, positives without a mask, gradients by hand.

With S = t X Y^T + b and G = dL/dS:  dL/dX = t G Y,  dL/dY = t G^T X,  dL/dt = <G Y, X>,  dL/db = sum_ij G_ij.
A loss computes its gradients together with its value, and backward only multiplies. S is formed once for the
log-sum-exps and once more for G (8 MND FLOPs; `each` three times where positives are many, 10 MND); once where only
rows count, and for the sigmoid (6 MND).
contrast_lse, whose upstream gradient is a vector, forms S once forward and once backward.

Traps
- When x is y, both arguments' gradients are returned and autograd adds them; <G Y, X> is dL/dt through the left alone.
- It reads a few numbers back from the device (which exponential is safe, which rows are present): on CUDA it is
  correct, and slower than it could be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kernels.autograd import Gradients, accumulation_dtype, full_precision
from kernels.chunked import rows_only, softmax
from kernels.chunked.khatri_rao import khatri_rao_gradients, khatri_rao_lse
from kernels.chunked.logits import Logits, LogSumExp, blocks, softplus
from kernels.chunked.positives import positives_of
from kernels.chunked.present import Side, self_column
from kernels.distributed import sum_over

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

__all__ = ["infonce", "khatri_rao_gradients", "khatri_rao_lse", "lse", "lse_gradients", "sigmoid"]


def infonce(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    x_ids: Int64[Tensor, " m"],
    y_ids: Int64[Tensor, " n"],
    *,
    positives: str,
    exclude_self: bool,
    x_weight: Float[Tensor, " m"] | None,
    y_weight: Float[Tensor, " n"] | None,
    symmetric: bool,
    x_offset: int,
    group: Any,
    wanted: tuple[bool, ...],
) -> tuple[Float[Tensor, ""], Gradients]:
    """As kernels.multi_positive_infonce, with the gradients of what is wanted of x, y, scale."""
    with full_precision(x):
        rows, columns = _sides(x, x_ids, x_weight, y, y_ids, y_weight)
        itself = self_column(rows, columns, x_offset) if exclude_self else None
        logits = Logits(rows.z, columns.z, scale, self_column=itself)
        P = positives_of(rows.ids, columns.ids, itself)
        means = softmax.means(P, rows, columns, symmetric, group)
        solve = softmax.solve if symmetric else rows_only.solve
        value, products = solve(positives, logits, P, means, _operands(logits, wanted), group)
        dx, dy, dt = _gradients(logits, wanted, *products)
        return value, (rows.all_items(dx), columns.all_items(dy), dt)


def sigmoid(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    x_ids: Int64[Tensor, " m"],
    y_ids: Int64[Tensor, " n"],
    *,
    exclude_self: bool,
    x_weight: Float[Tensor, " m"] | None,
    y_weight: Float[Tensor, " n"] | None,
    x_offset: int,
    group: Any,
    wanted: tuple[bool, ...],
) -> tuple[Float[Tensor, ""], Gradients]:
    """As kernels.multi_positive_sigmoid, with the gradients of what is wanted of x, y, scale, bias.

    With w_i the row weights over their sum and v_j the column weights:
    L = sum_ij w_i v_j [softplus(S_ij) - P_ij S_ij],  G_ij = w_i v_j [sigmoid(S_ij) - P_ij],
    G Y = diag(w) [sigmoid(S) - P] diag(v) Y: the weights meet X and Y, never S.
    Few positives are turned around in S, as softplus(S) - S is softplus(-S) and sigmoid(S) - 1 is -sigmoid(-S), so that
    nothing cancels; many are subtracted as segment sums.
    """
    for_x, for_y, for_scale, for_bias = wanted
    with full_precision(x):
        rows, columns = _sides(x, x_ids, x_weight, y, y_ids, y_weight)
        itself = self_column(rows, columns, x_offset) if exclude_self else None
        logits = Logits(rows.z, columns.z, scale, bias=bias, self_column=itself)
        P = positives_of(rows.ids, columns.ids, itself)
        (total,) = sum_over(group, rows.weight.sum())
        w, v = rows.weight / total.clamp_min(torch.finfo(total.dtype).tiny), columns.weight
        cost, db = torch.zeros_like(scale), torch.zeros_like(scale)

        def sigmoid_of(chunk: slice, S: Tensor) -> Tensor:
            pairs = P.pairs(chunk) if P.few else None
            if pairs is not None:
                S[pairs] = -S[pairs]
            for block, w_block in blocks(S, w[chunk]):
                cost.add_(w_block @ (softplus(block) @ v))
            S.sigmoid_()
            if pairs is not None:
                S[pairs] = -S[pairs]
            db.add_(w[chunk] @ (S @ v))
            return S

        vy, wx = logits.y * v[:, None], logits.tx * w[:, None]
        GY, GX = logits.products(sigmoid_of, vy if for_x or for_scale else None, wx if for_y else None)
        if not P.few:
            PY, num_positives = P.rows(vy), w @ P.rows(v[:, None])[:, 0]
            cost.sub_((wx * PY).sum() + bias * num_positives)
            db.sub_(num_positives)
            GY = None if GY is None else GY.sub_(PY)
            GX = None if GX is None else GX.sub_(P.columns(wx))
        (value,) = sum_over(group, cost)
        value = value.clamp_min(0.0)  # as every term is; what is below comes from the rounding of softplus(S) - S
        GY = None if GY is None else GY.mul_(w[:, None])
        GX = None if GX is None else GX.mul_(v[:, None])
        dx, dy, dt = _gradients(logits, wanted, GY, GX)
        return value, (rows.all_items(dx), columns.all_items(dy), dt, db if for_bias else None)


def lse(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    *,
    exclude: str,
    x_ids: Int64[Tensor, " m"] | None,
    y_ids: Int64[Tensor, " n"] | None,
    x_offset: int,
    group: Any,
) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    """As kernels.contrast_lse: row and column."""
    with full_precision(x):
        found = _logits(x, y, scale, exclude, x_ids, y_ids, x_offset).lse(group)
    return found.row, found.column


def lse_gradients(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    row: Float[Tensor, " m"],
    column: Float[Tensor, " n"],
    g: Float[Tensor, " m"],
    h: Float[Tensor, " n"],
    *,
    exclude: str,
    x_ids: Int64[Tensor, " m"] | None,
    y_ids: Int64[Tensor, " n"] | None,
    x_offset: int,
    wanted: tuple[bool, ...],
) -> Gradients:
    """The gradients of g . row + h . column:  G_ij = g_i exp(S_ij - row_i) + h_j exp(S_ij - column_j)."""
    with full_precision(x):
        logits = _logits(x, y, scale, exclude, x_ids, y_ids, x_offset)
        found = LogSumExp(row, column)

        def gradient(chunk: slice, S: Tensor) -> Tensor:
            return found.gradient(chunk, S, g, h)

        GY, GX = logits.products(gradient, *_operands(logits, wanted))
        return _gradients(logits, wanted, GY, GX)


def _sides(
    x: Tensor, x_ids: Tensor, x_weight: Tensor | None, y: Tensor, y_ids: Tensor, y_weight: Tensor | None
) -> tuple[Side, Side]:
    dtype = accumulation_dtype(x, y)
    return Side(x, x_ids, x_weight, dtype), Side(y, y_ids, y_weight, dtype)


def _logits(
    x: Tensor, y: Tensor, scale: Tensor, exclude: str, x_ids: Tensor | None, y_ids: Tensor | None, x_offset: int
) -> Logits:
    """Those of unweighted rows and columns."""
    itself = torch.arange(x_offset, x_offset + len(x), device=x.device) if exclude == "self" else None
    distinct = (x_ids, y_ids) if x_ids is not None and y_ids is not None else None
    return Logits(x.to(scale.dtype), y.to(scale.dtype), scale, self_column=itself, distinct=distinct)


def _operands(logits: Logits, wanted: tuple[bool, ...]) -> tuple[Tensor | None, Tensor | None]:
    """What G has to be multiplied with: Y for dL/dx and dL/dscale, t X for dL/dy."""
    for_x, for_y, for_scale = wanted
    return logits.y if for_x or for_scale else None, logits.tx if for_y else None


def _gradients(logits: Logits, wanted: tuple[bool, ...], GY: Tensor | None, GX: Tensor | None) -> Gradients:
    """dL/dx, dL/dy and dL/dscale from (G Y, t G^T X), of the items that are present."""
    for_x, _, for_scale, *_ = wanted
    dt = (GY * logits.x).sum() if GY is not None and for_scale else None
    return GY.mul_(logits.t) if GY is not None and for_x else None, GX, dt
