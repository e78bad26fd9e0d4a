"""The three public functions: what they compute, what they refuse, and which backend runs them.

A backend is a module with these three functions and these signatures (without `backend`), which trusts its arguments:
a new one is one file and one line in BACKENDS.

Trap: over a group, y.grad, scale.grad and bias.grad are one rank's share. Averaging data parallelism must be told so
(return world size times the loss, or sum the gradients).
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from kernels import chunked, reference

if TYPE_CHECKING:
    from jaxtyping import Float, Integer

BACKENDS: dict[str, ModuleType] = {"reference": reference, "chunked": chunked}
Backend = Literal["auto", "reference", "chunked", "triton"]


def contrast_lse(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Float[Tensor, ""] | Float[Tensor, " 1"] | float,
    *,
    exclude: Literal["none", "self", "group"] = "none",
    x_ids: Integer[Tensor, " m"] | None = None,
    y_ids: Integer[Tensor, " n"] | None = None,
    x_offset: int = 0,
    group: Any = None,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    """Log-sum-exps of S = scale x y^T, over the columns of each row and over the rows of each column, in nats.

    Differentiable in x, y and scale, once.
    exclude: "self" leaves out the pair (i, x_offset + i), row i of x being that row of y; "group" leaves out the pairs
    with equal ids. A row or column in which everything is left out is -inf, with gradient 0.
    group: x is this rank's strip of the rows, y all columns, the same on every rank. row_lse is the strip's; col_lse
    runs over the rows of all ranks. For a loss that is sum_ranks f(row_lse) + g(col_lse), with g the same on every
    rank, x.grad is the strip's gradient; y.grad and scale.grad are this rank's shares: their SUM over the ranks is the
    gradient. Without a group a strip is a whole: its columns see its rows alone.
    Results are float32 (float64 for float64 inputs), gradients in each input's dtype, under autocast too.
    Raises ValueError when shapes, dtypes, devices or options do not fit.
    """
    _check_rows(x, y, scale=scale)
    if exclude not in ("none", "self", "group"):
        raise ValueError(f"exclude is {exclude!r}: it must be 'none', 'self' or 'group'")
    if exclude == "group":
        if x_ids is None or y_ids is None:
            raise ValueError("exclude='group' leaves out pairs with equal ids: pass x_ids and y_ids")
        x_ids, y_ids = _check_ids("x", x_ids, x), _check_ids("y", y_ids, y)
    if exclude == "self":
        _check_self(x, y, x_offset)
    return _backend(backend).contrast_lse(
        x, y, scale, exclude=exclude, x_ids=x_ids, y_ids=y_ids, x_offset=x_offset, group=group
    )


def multi_positive_infonce(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Float[Tensor, ""] | Float[Tensor, " 1"] | float,
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
    backend: Backend = "auto",
) -> Float[Tensor, ""]:
    """InfoNCE (arXiv 1807.03748) with any number of positives per row, in nats: equal ids are positives.

    With S = scale x y^T, P the n positives of row i and LSE_i over all its columns, row i's loss l_i is
      mean    LSE_i - (1/n) sum_P S       SupCon's L_out (arXiv 2004.11362, eq. 2); at least log n
      logsum  LSE_i - LSE_P               MIL-NCE (arXiv 1912.06430, eq. 1); at least 0
      each    (1/n) sum_P [log(e^S_p + sum of e^S over the negatives) - S_p]; at least 0
              NT-Xent (arXiv 2002.05709) for each positive against the negatives alone
    which are the same, and CLIP's, for n = 1. The value is sum_i w_i l_i / sum_i w_i over the rows that have a positive
    (0 when there are none), averaged with the same over the columns when `symmetric`. Differentiable once.

    x_weight, y_weight: >= 0, 1 by default, no gradient. 0 means absent: no loss, no positive, in no denominator.
    exclude_self: row i of x is row x_offset + i of y, and that pair is neither positive nor negative.
    group: x, x_ids and x_weight are this rank's strip of the rows (strips may differ in length), x_offset is where it
    begins, and y, y_ids and y_weight are all columns, the same on every rank. The value is the loss of all rows, on
    every rank. x.grad is the strip's gradient; y.grad and scale.grad are this rank's shares: their SUM over the ranks
    is the gradient. Without a group a strip is a whole: its columns see its rows alone.
    The result is float32 (float64 for float64 inputs), gradients in each input's dtype, under autocast too.
    Raises ValueError when shapes, dtypes, devices, weights or options do not fit.
    """
    if positives not in ("mean", "logsum", "each"):
        raise ValueError(f"positives is {positives!r}: it must be 'mean', 'logsum' or 'each'")
    _check_rows(x, y, scale=scale)
    x_ids, y_ids = _check_ids("x", x_ids, x), _check_ids("y", y_ids, y)
    _check_weight("x", x_weight, x)
    _check_weight("y", y_weight, y)
    if exclude_self:
        _check_self(x, y, x_offset)
    return _backend(backend).multi_positive_infonce(
        x,
        y,
        scale,
        x_ids,
        y_ids,
        positives=positives,
        exclude_self=exclude_self,
        x_weight=x_weight,
        y_weight=y_weight,
        symmetric=symmetric,
        x_offset=x_offset,
        group=group,
    )


def multi_positive_sigmoid(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Float[Tensor, ""] | Float[Tensor, " 1"] | float,
    bias: Float[Tensor, ""] | Float[Tensor, " 1"] | float,
    x_ids: Integer[Tensor, " m"],
    y_ids: Integer[Tensor, " n"],
    *,
    exclude_self: bool = False,
    x_weight: Tensor | None = None,
    y_weight: Tensor | None = None,
    x_offset: int = 0,
    group: Any = None,
    backend: Backend = "auto",
) -> Float[Tensor, ""]:
    """The sigmoid loss (SigLIP, arXiv 2303.15343, algorithm 1) with any number of positives per row, in nats.

    With S = scale x y^T + bias and T_ij = 1 where the ids are equal:
      sum_ij w_i v_j [softplus(S_ij) - T_ij S_ij] / sum_i w_i,     w = x_weight, v = y_weight; / M by default.
    Rows without a positive count: their negatives are real. Weights, exclude_self, x_offset, group, dtypes and
    gradients as in multi_positive_infonce; bias.grad, too, is this rank's share.
    Raises ValueError when shapes, dtypes, devices or weights do not fit.
    """
    _check_rows(x, y, scale=scale, bias=bias)
    x_ids, y_ids = _check_ids("x", x_ids, x), _check_ids("y", y_ids, y)
    _check_weight("x", x_weight, x)
    _check_weight("y", y_weight, y)
    if exclude_self:
        _check_self(x, y, x_offset)
    return _backend(backend).multi_positive_sigmoid(
        x,
        y,
        scale,
        bias,
        x_ids,
        y_ids,
        exclude_self=exclude_self,
        x_weight=x_weight,
        y_weight=y_weight,
        x_offset=x_offset,
        group=group,
    )


def _backend(name: str) -> ModuleType:
    name = "chunked" if name == "auto" else name
    if name not in BACKENDS:
        raise ValueError(
            f"backend {name!r} is not in this build, which has {' and '.join(BACKENDS)}: pass one, or 'auto'"
        )
    return BACKENDS[name]


def _check_rows(x: Tensor, y: Tensor, **scalars: Tensor | float) -> None:
    for name, z in (("x", x), ("y", y)):
        if z.dim() != 2:
            raise ValueError(
                f"{name} has shape {list(z.shape)}: it must be [rows, dimensions]; flatten views into rows"
            )
        if not z.is_floating_point():
            raise ValueError(f"{name} is {z.dtype}: it must be a floating type; convert it with .float()")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} dimensions and y has {y.shape[1]}: project both to the same width")
    if x.device != y.device:
        raise ValueError(f"x is on {x.device} and y on {y.device}: move them to one device")
    for name, value in scalars.items():
        if isinstance(value, Tensor) and value.shape not in ((), (1,)):
            raise ValueError(f"{name} has shape {list(value.shape)}: it must be a number or of shape [] or [1]")


def _check_ids(side: str, ids: Tensor, z: Tensor) -> Tensor:
    if ids.shape != z.shape[:1]:
        raise ValueError(f"{side}_ids has shape {list(ids.shape)}, but {side} has {len(z)} rows: pass one id per row")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"{side}_ids is {ids.dtype}: ids must be integers")
    if ids.device != z.device:
        raise ValueError(f"{side}_ids is on {ids.device} and {side} on {z.device}: move the ids there")
    return ids.to(torch.int64)


def _check_weight(side: str, weight: Tensor | None, z: Tensor) -> None:
    if weight is None:
        return
    if weight.shape != z.shape[:1]:
        raise ValueError(
            f"{side}_weight has shape {list(weight.shape)}, but {side} has {len(z)} rows: pass one weight per row"
        )
    if weight.device != z.device:
        raise ValueError(f"{side}_weight is on {weight.device} and {side} on {z.device}: move the weights there")
    if weight.requires_grad:
        raise ValueError(f"{side}_weight requires a gradient, but weights get none: pass {side}_weight.detach()")
    if not (weight >= 0).all():
        raise ValueError(f"{side}_weight has a least value of {weight.min().item()}: weights must be >= 0, 0 is absent")


def _check_self(x: Tensor, y: Tensor, x_offset: int) -> None:
    if not 0 <= x_offset <= len(y) - len(x):
        raise ValueError(
            f"x has {len(x)} rows, x_offset is {x_offset} and y has {len(y)} rows, but to exclude itself row i of x "
            "must be row x_offset + i of y: pass all rows as y, and as x_offset where x begins among them"
        )
