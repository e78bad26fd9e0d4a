"""Contrast with every pair of two other modalities: the public function, its checks and its operators.

The mathematics is in kernels.chunked.khatri_rao and kernels.tiles.khatri_rao.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.library import infer_schema, register_autograd, register_fake

from kernels import reference
from kernels.autograd import Context, first_derivative_only, refuse_other_derivatives
from kernels.backends import load
from kernels.checks import check_features, check_scalar
from kernels.dispatch import BackendName, choose_backend
from kernels.ops import empty_results, fill_results
from kernels.registration import define_operator

if TYPE_CHECKING:
    from jaxtyping import Float


def khatri_rao_lse(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    z: Float[Tensor, "k d"],
    scale: Float[Tensor, ""] | Float[Tensor, " 1"] | float,
    *,
    backend: BackendName = "auto",
) -> Float[Tensor, " m"]:
    """Computes log sum_jk exp(scale sum_d x_id y_jd z_kd) for each row i, over all N K pairs (j, k), in nats.

    The denominator of Symile with all negatives (Saporta et al. 2024, arXiv 2411.01053): x the anchors, y and z the
    other two modalities. Differentiable in x, y, z and scale, once, in reverse mode. Memory is linear in M, N and K.
    x may be a strip of the rows, as each row sees every column: x.grad is then the strip's gradient, and y.grad, z.grad
    and scale.grad are this strip's sums, which the strips of one batch have to ADD.
    The result is float32 (float64 for float64 inputs), gradients have each input's dtype, under autocast too.
    Raises ValueError when shapes, dtypes, devices or the backend do not fit, or when there is nothing to contrast, and
    NotImplementedError under torch.func and forward-mode differentiation, which backend="reference" takes.
    """
    x, y, z = _check(x, y, z)
    t, chosen = check_scalar("scale", scale, x), choose_backend(backend, x)
    if chosen == "reference":
        return reference.khatri_rao_lse(x, y, z, t)
    refuse_other_derivatives({"x": x, "y": y, "z": z, "scale": t})
    return _row_lse(x, y, z, t, backend=chosen)


def _check(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns all in the widest of their dtypes, which holds the others' values exactly."""
    for name, side in (("x", x), ("y", y), ("z", z)):
        check_features(name, side)
    if not x.shape[1] == y.shape[1] == z.shape[1]:
        raise ValueError(
            f"x has {x.shape[1]} dimensions, y has {y.shape[1]} and z has {z.shape[1]}: project all to the same width"
        )
    if not x.device == y.device == z.device:
        raise ValueError(f"x is on {x.device}, y on {y.device} and z on {z.device}: move them to one device")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), z.dtype)
    return x.to(dtype), y.to(dtype), z.to(dtype)


def _compute(x: Tensor, y: Tensor, z: Tensor, scale: Tensor, *, backend: str) -> Tensor:
    return load(backend).khatri_rao_lse(x, y, z, scale)


def _compute_gradients(
    x: Tensor, y: Tensor, z: Tensor, scale: Tensor, row: Tensor, g: Tensor, *, backend: str, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns (dx, dy, dz, dscale), an empty tensor in the place of what is not wanted."""
    inputs = x, y, z, scale
    gradients = load(backend).khatri_rao_gradients(*inputs, row, g, tuple(wanted))
    dx, dy, dz, dscale = fill_results(inputs, gradients)
    return dx, dy, dz, dscale


def _fake(x: Tensor, y: Tensor, z: Tensor, scale: Tensor, *, backend: str) -> Tensor:
    return scale.new_empty(x.shape[0])


def _fake_gradients(
    x: Tensor, y: Tensor, z: Tensor, scale: Tensor, row: Tensor, g: Tensor, *, backend: str, wanted: Sequence[bool]
) -> tuple[Tensor, ...]:
    return tuple(empty_results((x, y, z, scale), wanted))


_row_lse = define_operator("khatri_rao_lse", infer_schema(_compute, mutates_args=()), _compute)
_row_lse_backward = define_operator(
    "khatri_rao_lse_backward", infer_schema(_compute_gradients, mutates_args=()), _compute_gradients
)
register_fake(_row_lse, _fake)
register_fake(_row_lse_backward, _fake_gradients)


class _KhatriRaoContext(Context, Protocol):
    backend: str

    def save_for_backward(self, *tensors: Tensor) -> None: ...


def _keep(
    ctx: _KhatriRaoContext, inputs: tuple[Tensor, ...], keyword_only_inputs: dict[str, Any], output: Tensor
) -> None:
    ctx.save_for_backward(*inputs, output)
    ctx.backend = keyword_only_inputs["backend"]


@first_derivative_only
def _backward(ctx: _KhatriRaoContext, g: Tensor) -> tuple[Tensor | None, ...]:
    refuse_other_derivatives({"the upstream gradient": g})
    *inputs, row = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    gradients = _row_lse_backward(*inputs, row, g, backend=ctx.backend, wanted=wanted)
    kept = zip(gradients, inputs, wanted, strict=True)
    return tuple(gradient.to(v.dtype) if want else None for gradient, v, want in kept)


register_autograd(_row_lse, _backward, setup_context=_keep)
