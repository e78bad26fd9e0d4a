"""Contrast with every pair of two other modalities: columns y_j * z_k, the Khatri-Rao product, formed and forgotten.

Letters: S_i(jk) = t <x_i, y_j * z_k> for x [M, D], y [N, D], z [K, D]; row_i = log sum_jk exp S_i(jk); g_i the upstream
gradient of row_i. A block is some rows i with some k, the pairs (i, k) being the rows of one matrix product:
 1. A_(ik) = t x_i * z_k, S = A Y^T, and row_i is merged from log-sum-exps of blocks, each with its own maximum.
 2. Backward forms S again:  G_i(jk) = dL/dS_i(jk) = g_i exp(S_i(jk) - row_i).
 3. dL/dY = sum G^T A, and with P = G Y, one row for each pair (i, k):
    dL/dX_i = t sum_k P_ik * z_k,    dL/dz_k = sum_i t x_i * P_ik,    dL/dt = sum_i <x_i, sum_k P_ik * z_k>.
So 2 MNKD FLOPs forward and 6 backward, and memory O((M + N + K) D) beside a block of bounded size.

Traps
- y and z are alike in the mathematics only: the matrix products run over y, so let the longer of the two be y.
- A strip of rows sees all columns and needs no group, but then dL/dY, dL/dZ and dL/dt are the strip's own sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.library import custom_op

from kernels import ops, reference
from kernels.autograd import Gradients, first_derivative_only, full_precision
from kernels.dispatch import FLOATS, Backend, _choose, _scalar

if TYPE_CHECKING:
    from jaxtyping import Float

CELLS = 2**20
"""numbers in each matrix of a block, of which there are about four: 4 MiB in float32"""
MIN_PAIRS = 256
"""fewer pairs (i, k) than this make the matrix products slow, however wide they are"""


def khatri_rao_lse(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    z: Float[Tensor, "k d"],
    scale: Float[Tensor, ""] | Float[Tensor, " 1"] | float,
    *,
    backend: Backend = "auto",
) -> Float[Tensor, " m"]:
    """log sum_jk exp(scale sum_d x_id y_jd z_kd) for each row i, over all N K pairs (j, k), in nats.

    The denominator of Symile with all negatives (Saporta et al. 2024, arXiv 2411.01053): x the anchors, y and z the
    other two modalities. Differentiable in x, y, z and scale, once. Memory is linear in M, N and K.
    x may be a strip of the rows, as each row sees every column: x.grad is then the strip's gradient, and y.grad, z.grad
    and scale.grad are this strip's sums, which the strips of one batch have to ADD.
    The result is float32 (float64 for float64 inputs), gradients in each input's dtype, under autocast too.
    Raises ValueError when shapes, dtypes, devices or the backend do not fit, or there is nothing to contrast.
    """
    x, y, z = _check(x=x, y=y, z=z)
    t, chosen = _scalar("scale", scale, x), _choose(backend, x)
    return reference.khatri_rao_lse(x, y, z, t) if chosen == "reference" else _row_lse(x, y, z, t, backend=chosen)


def lse(
    x: Float[Tensor, "m d"], y: Float[Tensor, "n d"], z: Float[Tensor, "k d"], t: Float[Tensor, ""]
) -> Float[Tensor, " m"]:
    """The rows' log-sum-exps by blocks, on any device, in the dtype of t."""
    x, y, z = (v.to(t.dtype).contiguous() for v in (x, y, z))
    tx, row = x * t, x.new_full((len(x),), -torch.inf)
    with full_precision(x):
        for rows, ks in _blocks(x, y, z):
            a = tx[rows]
            S = _products(a, z[ks]) @ y.T
            row[rows] = torch.logaddexp(row[rows], S.view(len(a), -1).logsumexp(1))
    return row


def lse_gradients(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    z: Float[Tensor, "k d"],
    t: Float[Tensor, ""],
    row: Float[Tensor, " m"],
    g: Float[Tensor, " m"],
    wanted: tuple[bool, ...],
) -> Gradients:
    """The gradients of g . row: what is wanted of (dx, dy, dz, dt)."""
    for_x, for_y, for_z, for_t = wanted
    x, y, z = (v.to(t.dtype).contiguous() for v in (x, y, z))
    row = row.masked_fill(row.isneginf(), torch.inf)  # overflown logits: -inf - -inf would be NaN
    tx, dx, dy, dz = x * t, torch.zeros_like(x), torch.zeros_like(y), torch.zeros_like(z)
    with full_precision(x):
        for rows, ks in _blocks(x, y, z):
            a, c = tx[rows], z[ks]
            A = _products(a, c)
            G = A @ y.T
            G.view(len(a), -1).sub_(row[rows, None]).exp_().mul_(g[rows, None])
            if for_y:
                dy.addmm_(G.T, A)
            if for_x or for_z or for_t:
                P = torch.mm(G, y, out=A).view(len(a), len(c), -1)
                dz[ks] += (P * a[:, None]).sum(0)
                dx[rows] += P.mul_(c).sum(1)  # t is still missing, which may be 0
    dt = (dx * x).sum() if for_t else None
    return dx.mul_(t) if for_x else None, dy if for_y else None, dz if for_z else None, dt


def _blocks(x: Tensor, y: Tensor, z: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of x and of z whose products with y have about CELLS numbers."""
    num_pairs = max(CELLS // max(y.shape), MIN_PAIRS)
    num_rows = min(len(x), num_pairs)
    num_ks = num_pairs // num_rows
    for i in range(0, len(x), num_rows):
        for k in range(0, len(z), num_ks):
            yield slice(i, i + num_rows), slice(k, k + num_ks)


def _products(x: Float[Tensor, "m d"], z: Float[Tensor, "k d"]) -> Float[Tensor, "mk d"]:
    return (x[:, None] * z).flatten(0, 1)


def _check(**sides: Tensor) -> list[Tensor]:
    """All in the widest of their dtypes, which holds the others' values exactly."""
    for name, v in sides.items():
        if v.dim() != 2:
            raise ValueError(f"{name} has shape {list(v.shape)}: it must be [rows, dimensions]")
        if v.dtype not in FLOATS:
            raise ValueError(
                f"{name} is {v.dtype}: it must be float16, bfloat16, float32 or float64; convert it with .float()"
            )
        if 0 in v.shape:
            raise ValueError(
                f"{name} has shape {list(v.shape)}, which leaves nothing to contrast: skip the loss of an empty batch"
            )
    x, y, z = sides.values()
    if not x.shape[1] == y.shape[1] == z.shape[1]:
        raise ValueError(
            f"x has {x.shape[1]} dimensions, y has {y.shape[1]} and z has {z.shape[1]}: project all to the same width"
        )
    if not x.device == y.device == z.device:
        raise ValueError(f"x is on {x.device}, y on {y.device} and z on {z.device}: move them to one device")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), z.dtype)
    return [v.to(dtype) for v in (x, y, z)]


@custom_op("multimodal_workbench::khatri_rao_lse", mutates_args=())
def _row_lse(x: Tensor, y: Tensor, z: Tensor, scale: Tensor, *, backend: str) -> Tensor:
    if backend == "chunked":
        return lse(x, y, z, scale)
    return import_module(ops.BACKENDS[backend]).khatri_rao_lse(x, y, z, scale)


@custom_op("multimodal_workbench::khatri_rao_lse_backward", mutates_args=())
def _row_lse_backward(
    x: Tensor, y: Tensor, z: Tensor, scale: Tensor, row: Tensor, g: Tensor, *, backend: str, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(dx, dy, dz, dscale), an empty tensor in the place of what is not wanted."""
    inputs = x, y, z, scale
    if backend == "chunked":
        gradients = lse_gradients(*inputs, row, g, tuple(wanted))
    else:
        gradients = import_module(ops.BACKENDS[backend]).khatri_rao_gradients(*inputs, row, g, tuple(wanted))
    dx, dy, dz, dscale = ops._results(inputs, gradients)
    return dx, dy, dz, dscale


@_row_lse.register_fake
def _(x: Tensor, y: Tensor, z: Tensor, scale: Tensor, *, backend: str) -> Tensor:
    return scale.new_empty(x.shape[0])


@_row_lse_backward.register_fake
def _(
    x: Tensor, y: Tensor, z: Tensor, scale: Tensor, row: Tensor, g: Tensor, *, backend: str, wanted: Sequence[bool]
) -> tuple[Tensor, ...]:
    return tuple(ops._empty_results((x, y, z, scale), wanted))


def _keep(ctx: Any, inputs: tuple[Tensor, ...], keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    ctx.save_for_backward(*inputs, output)
    ctx.backend = keyword_only_inputs["backend"]


@first_derivative_only
def _backward(ctx: Any, g: Tensor) -> Gradients:
    *inputs, row = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    gradients = _row_lse_backward(*inputs, row, g, backend=ctx.backend, wanted=wanted)
    kept = zip(gradients, inputs, wanted, strict=True)
    return tuple(gradient.to(v.dtype) if want else None for gradient, v, want in kept)


_row_lse.register_autograd(_backward, setup_context=_keep)
