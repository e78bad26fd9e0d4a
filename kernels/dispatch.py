"""The three public functions: what they compute, what they refuse, and which backend runs them.

Nothing here looks at values, only at shapes, dtypes, devices and options, so that torch.compile traces it whole. What
comes out of the checks is one uniform Problem. `reference` computes with that as it is; every other backend stands
behind the operators of kernels.ops.

Trap: over a group, y.grad, scale.grad and bias.grad are one rank's share. Averaging data parallelism must be told so
(return world size times the loss, or sum the gradients).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from kernels import backends, ops, reference
from kernels.autograd import find_wanted, refuse_other_derivatives
from kernels.backends import Losses
from kernels.checks import (
    check_guides,
    check_hardness,
    check_ids,
    check_label_smoothing,
    check_rows,
    check_scalar,
    check_self,
    check_weight,
)
from kernels.problem import Average, Exclude, Problem

if TYPE_CHECKING:
    from jaxtyping import Float, Integer
    from torch.distributed import ProcessGroup

BACKENDS = ("reference", *backends.BACKENDS)
BackendName = Literal["auto", "reference", "chunked", "triton"]

HAS_TRITON = find_spec("triton") is not None


def backend_for(x: Tensor) -> str:
    """Returns the backend that "auto" takes: triton on CUDA where it is installed, except for float64; else chunked."""
    return "triton" if HAS_TRITON and x.is_cuda and x.dtype != torch.float64 else "chunked"


def contrast_lse(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Float[Tensor, ""] | Float[Tensor, " 1"] | float,
    *,
    exclude: Exclude = "none",
    x_ids: Integer[Tensor, " m"] | None = None,
    y_ids: Integer[Tensor, " n"] | None = None,
    x_offset: int = 0,
    group: ProcessGroup | None = None,
    backend: BackendName = "auto",
) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    """Computes log-sum-exps of S = scale x y^T, over the columns of each row and over the rows of each column, in nats.

    Differentiable in x, y and scale, once, in reverse mode.
    exclude: "self" leaves out the pair (i, x_offset + i), row i of x being that row of y; "group" leaves out the pairs
    with equal ids. A row or column in which everything is left out is -inf, with gradient 0.
    group: x is this rank's strip of the rows, y all columns, the same on every rank. row_lse is the strip's; col_lse
    runs over the rows of all ranks. For a loss that is sum_ranks f(row_lse) + g(col_lse), with g the same on every
    rank, x.grad is the strip's gradient; y.grad and scale.grad are this rank's shares: their SUM over the ranks is the
    gradient. Without a group a strip is a whole: its columns see its rows alone.
    x and y: float16, bfloat16, float32 or float64; where they differ, both are computed with in the wider. Results are
    float32 (float64 for float64 inputs), gradients have each input's dtype, under autocast too.
    backend: "auto" is what backend_for says.
    Raises ValueError when shapes, dtypes, devices or options do not fit, or when there is nothing to contrast
    (M, N or D is 0; over a group a strip may be empty), and NotImplementedError under torch.func and forward-mode
    differentiation, which backend="reference" takes.
    """
    x, y = check_rows(x, y, group)
    if exclude not in ("none", "self", "group"):
        raise ValueError(f"exclude is {exclude!r}: it must be 'none', 'self' or 'group'")
    if exclude == "self":
        check_self(x, y, x_offset)
    if exclude == "group":
        if x_ids is None or y_ids is None:
            raise ValueError("exclude='group' leaves out pairs with equal ids: pass x_ids and y_ids")
        x_ids, y_ids = check_ids("x", x_ids, x), check_ids("y", y_ids, y)
    else:
        x_ids = y_ids = None
    problem = Problem(
        x=x,
        y=y,
        scale=check_scalar("scale", scale, x),
        x_ids=x_ids,
        y_ids=y_ids,
        exclude=exclude,
        x_offset=x_offset,
        group=group,
        backend=choose_backend(backend, x),
    )
    return _losses_for(problem).lse(problem)


def multi_positive_infonce(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Float[Tensor, ""] | Float[Tensor, " 1"] | float,
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
    backend: BackendName = "auto",
    _prefixes: Mapping[int, float] | None = None,  # by kernels.matryoshka alone
) -> Float[Tensor, ""]:
    """Computes InfoNCE (arXiv 1807.03748) with any number of positives per row, in nats: equal ids are positives.

    With S = scale x y^T, P the n positives of row i and LSE_i over all its columns, row i's loss l_i is
      mean    LSE_i - (1/n) sum_P S       SupCon's L_out (arXiv 2004.11362, eq. 2); at least log n
      logsum  LSE_i - LSE_P               MIL-NCE (arXiv 1912.06430, eq. 1); at least 0
      each    (1/n) sum_P [log(e^S_p + sum of e^S over the negatives) - S_p]; at least 0
              NT-Xent (arXiv 2002.05709) for each positive against the negatives alone
    which are the same, and CLIP's, for n = 1. The value is sum_i w_i l_i / sum_i w_i over the rows that have a positive
    (0 when there are none), averaged with the same over the columns when `symmetric`. Differentiable once, in reverse.

    x_weight, y_weight: >= 0, 1 by default, no gradient. 0 means absent: no loss, no positive, in no denominator. A
    negative or NaN weight is a ValueError on the CPU; on other devices it makes the loss and its gradients NaN: to
    raise an error the host would have to wait for the device at every step, and a CUDA graph cannot record that.
    x_log_weight, y_log_weight: finite, 0 by default, no gradient: column j counts exp(y_log_weight_j) times in rows'
    denominators, and row i exp(x_log_weight_i) times in columns', as the logits are S_ij + x_log_weight_i +
    y_log_weight_j. Hard negatives get more than 0. Minus the log of how often an item is drawn corrects for frequent
    items, which are negatives too often (Yi et al., RecSys 2019).
    label_smoothing: e in [0, 1): 1 - e of a row's target is its positives', and e is spread evenly over all that counts
    in its denominator (arXiv 1512.00567, section 7); kernels.linear has the formulas of the three averages.
    hardness: a >= 0: a pair that is no positive counts exp(a x_i . y_j) times in both denominators, weights that get no
    gradient (arXiv 2503.04812, eq. 5).
    false_negative_margin: a column that is no positive leaves row i's denominator if its cosine x_i . y_j is above the
    mean cosine of the row's positives by more than the margin (times that cosine where relative_margin), and a row
    leaves column j's likewise. GISTEmbed (arXiv 2402.16829) has 0; sentence-transformers subtracts its margin: -m here.
    x_guide, y_guide: unit rows of any width, whose cosines tell false negatives in the place of those of x and y. They
    get no gradient, and are cut like x and y over a group. On triton they are rounded to the dtype of x and y.
    exclude_self: row i of x is row x_offset + i of y, and that pair is neither positive nor negative.
    group: x, x_ids and x_weight are this rank's strip of the rows (strips may differ in length), x_offset is where it
    begins, and y, y_ids and y_weight are all columns, the same on every rank. The value is the loss of all rows, on
    every rank. x.grad is the strip's gradient; y.grad and scale.grad are this rank's shares: their SUM over the ranks
    is the gradient. Without a group a strip is a whole: its columns see its rows alone.
    dtypes, backend: as in contrast_lse. In bfloat16, gradients are rounded before they meet the upstream gradient, too.
    Raises ValueError when shapes, dtypes, devices, weights or options do not fit, or when there is nothing to contrast
    (M, N or D is 0; over a group a strip may be empty), and NotImplementedError as contrast_lse does.
    """
    if positives not in ("mean", "logsum", "each"):
        raise ValueError(f"positives is {positives!r}: it must be 'mean', 'logsum' or 'each'")
    x, y = check_rows(x, y, group)
    if exclude_self:
        check_self(x, y, x_offset)
    t = check_scalar("scale", scale, x)
    guide = check_guides(x_guide, y_guide, x, y, false_negative_margin)
    problem = Problem(
        x=x,
        y=y,
        scale=t,
        x_ids=check_ids("x", x_ids, x),
        y_ids=check_ids("y", y_ids, y),
        x_weight=check_weight("x_weight", x_weight, x),
        y_weight=check_weight("y_weight", y_weight, y),
        x_log_weight=check_weight("x_log_weight", x_log_weight, x),
        y_log_weight=check_weight("y_log_weight", y_log_weight, y),
        exclude="self" if exclude_self else "none",
        x_offset=x_offset,
        positives=positives,
        symmetric=symmetric,
        label_smoothing=check_label_smoothing(label_smoothing, false_negative_margin),
        hardness=check_hardness(hardness),
        false_negative_margin=false_negative_margin,
        relative_margin=relative_margin,
        x_guide=guide[0],
        y_guide=guide[1],
        prefixes=tuple(_prefixes or ()),
        prefix_weights=tuple((_prefixes or {}).values()),
        group=group,
        wanted=find_wanted(x, y, t),
        backend=choose_backend(backend, x),
    )
    return _losses_for(problem).infonce(problem)


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
    group: ProcessGroup | None = None,
    backend: BackendName = "auto",
    _prefixes: Mapping[int, float] | None = None,  # by kernels.matryoshka alone
) -> Float[Tensor, ""]:
    """Computes the sigmoid loss (SigLIP, arXiv 2303.15343, algorithm 1) with any number of positives per row, in nats.

    With S = scale x y^T + bias and T_ij = 1 where the ids are equal:
      sum_ij w_i v_j [softplus(S_ij) - T_ij S_ij] / sum_i w_i,     w = x_weight, v = y_weight; / M by default.
    Rows without a positive count: their negatives are real. Weights, exclude_self, x_offset, group, dtypes and
    gradients are as in multi_positive_infonce; bias.grad, too, is this rank's share.
    Raises what multi_positive_infonce does.
    """
    x, y = check_rows(x, y, group)
    if exclude_self:
        check_self(x, y, x_offset)
    t, b = check_scalar("scale", scale, x), check_scalar("bias", bias, x)
    problem = Problem(
        x=x,
        y=y,
        scale=t,
        bias=b,
        x_ids=check_ids("x", x_ids, x),
        y_ids=check_ids("y", y_ids, y),
        x_weight=check_weight("x_weight", x_weight, x),
        y_weight=check_weight("y_weight", y_weight, y),
        exclude="self" if exclude_self else "none",
        x_offset=x_offset,
        prefixes=tuple(_prefixes or ()),
        prefix_weights=tuple((_prefixes or {}).values()),
        group=group,
        wanted=find_wanted(x, y, t, b),
        backend=choose_backend(backend, x),
    )
    return _losses_for(problem).sigmoid(problem)


def _losses_for(problem: Problem) -> Losses:
    """Returns the module that computes a problem; an operator's has to be differentiated as operators can be."""
    if problem.backend == "reference":
        return reference
    differentiable = ("x", "y", "scale", "bias", "x_weight", "y_weight")
    refuse_other_derivatives({name: getattr(problem, name) for name in differentiable})
    return ops


def choose_backend(backend: str, x: Tensor) -> str:
    """Returns the backend of a name, or raises ValueError where it cannot compute x."""
    if backend == "auto":
        return backend_for(x)
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}: it must be 'auto', {', '.join(map(repr, BACKENDS))}")
    if backend == "triton":
        _check_triton(x)
    return backend


def _check_triton(x: Tensor) -> None:
    if not HAS_TRITON:
        raise ValueError(
            "backend 'triton' needs the package triton, which is not installed: `pip install triton` (it exists for "
            "Linux), or pass backend='auto'"
        )
    if x.dtype == torch.float64:
        raise ValueError(
            "backend 'triton' computes in float32, but x or y is torch.float64: pass x.float() and y.float(), or "
            "backend='chunked'"
        )
    if not x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"backend 'triton' runs on CUDA tensors, but x is on {x.device}: move x and y to a GPU, or pass "
            "backend='auto' (TRITON_INTERPRET=1 interprets its kernels on the CPU, for tests)"
        )
