"""Contrast with every pair of two other modalities: the public function, its checks and its operator.

The mathematics is in kernels.chunked.khatri_rao and kernels.tiles.khatri_rao.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.library import custom_op

from kernels import ops, reference
from kernels.autograd import Gradients, first_derivative_only
from kernels.dispatch import FLOATS, Backend, _choose, _scalar

if TYPE_CHECKING:
    from jaxtyping import Float


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
    return import_module(ops.BACKENDS[backend]).khatri_rao_lse(x, y, z, scale)


@custom_op("multimodal_workbench::khatri_rao_lse_backward", mutates_args=())
def _row_lse_backward(
    x: Tensor, y: Tensor, z: Tensor, scale: Tensor, row: Tensor, g: Tensor, *, backend: str, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(dx, dy, dz, dscale), an empty tensor in the place of what is not wanted."""
    inputs = x, y, z, scale
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
