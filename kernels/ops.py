"""The losses as operators of torch: torch.compile, torch.export and CUDA graphs see one node, not its insides.

An operator gets checked arguments (see kernels.dispatch), the backend and the process group by name, and `wanted`:
which inputs a gradient is wanted for. A loss computes those gradients together with its value and returns them, an
empty tensor in the place of the others; its backward only multiplies by the upstream gradient.

A backend is a module with `infonce`, `sigmoid`, `lse` and `lse_gradients` as chunked.py has them: pure functions,
without autograd. A new one is one file and one line in BACKENDS, and is imported when it is first used.

Traps
- Results may not share memory with an argument or with one another, and gradients are contiguous whatever the strides
  of their inputs: a compiled program relies on what register_fake promises.
- A float16 gradient would lose what is below 6e-8 before a GradScaler's factor, which is part of the upstream gradient,
  could save it. It stays float32 until it has met that.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.library import custom_op

from kernels.autograd import Gradients, first_derivative_only
from kernels.distributed import sum_over

if TYPE_CHECKING:
    from jaxtyping import Bool

BACKENDS = {"chunked": "kernels.chunked.losses", "triton": "kernels.tiles.losses"}


@custom_op("multimodal_workbench::infonce", mutates_args=())
def infonce(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    x_ids: Tensor,
    y_ids: Tensor,
    x_weight: Tensor | None,
    y_weight: Tensor | None,
    *,
    positives: str,
    exclude_self: bool,
    symmetric: bool,
    x_offset: int,
    group: str | None,
    backend: str,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(value, dx, dy, dscale) of kernels.multi_positive_infonce."""
    ranks = _resolve(group)
    wrong = _wrong_weights(ranks, x_weight=x_weight, y_weight=y_weight)
    value, gradients = import_module(BACKENDS[backend]).infonce(
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
        group=ranks,
        wanted=tuple(wanted),
    )
    dx, dy, dscale = _results((x, y, scale), gradients)
    _make_nan(wrong, value, dx, dy, dscale)
    return value, dx, dy, dscale


@custom_op("multimodal_workbench::sigmoid", mutates_args=())
def sigmoid(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor,
    x_ids: Tensor,
    y_ids: Tensor,
    x_weight: Tensor | None,
    y_weight: Tensor | None,
    *,
    exclude_self: bool,
    x_offset: int,
    group: str | None,
    backend: str,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(value, dx, dy, dscale, dbias) of kernels.multi_positive_sigmoid."""
    ranks = _resolve(group)
    wrong = _wrong_weights(ranks, x_weight=x_weight, y_weight=y_weight)
    value, gradients = import_module(BACKENDS[backend]).sigmoid(
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
        group=ranks,
        wanted=tuple(wanted),
    )
    dx, dy, dscale, dbias = _results((x, y, scale, bias), gradients)
    _make_nan(wrong, value, dx, dy, dscale, dbias)
    return value, dx, dy, dscale, dbias


@infonce.register_fake
def _(x: Tensor, y: Tensor, scale: Tensor, *others: Any, wanted: Sequence[bool], **options: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(scale), *_empty_results((x, y, scale), wanted)


@sigmoid.register_fake
def _(
    x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, *others: Any, wanted: Sequence[bool], **options: Any
) -> tuple[Tensor, ...]:
    return torch.empty_like(scale), *_empty_results((x, y, scale, bias), wanted)


def _keep_gradients(
    ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: tuple[Tensor, ...]
) -> None:
    _, *gradients = output
    ctx.mark_non_differentiable(*gradients)
    ctx.set_materialize_grads(False)  # else backward gets zeros of the size of x and y
    ctx.save_for_backward(*gradients)
    wanted = keyword_only_inputs["wanted"]
    ctx.dtypes = [v.dtype if want else None for v, want in zip(inputs, wanted, strict=False)]
    ctx.no_gradients = (None,) * (len(inputs) - len(wanted))


@first_derivative_only
def _multiply(ctx: Any, upstream: Tensor | None, *_: None) -> Gradients:
    if upstream is None:  # what follows the loss passed no gradient on
        return *(None for _ in ctx.dtypes), *ctx.no_gradients
    kept = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
    gradients = ((gradient * upstream).to(dtype) if dtype else None for gradient, dtype in kept)
    return *gradients, *ctx.no_gradients


infonce.register_autograd(_multiply, setup_context=_keep_gradients)
sigmoid.register_autograd(_multiply, setup_context=_keep_gradients)


@custom_op("multimodal_workbench::contrast_lse", mutates_args=())
def contrast_lse(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    x_ids: Tensor | None,
    y_ids: Tensor | None,
    *,
    exclude: str,
    x_offset: int,
    group: str | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """(row, column) of kernels.contrast_lse."""
    return import_module(BACKENDS[backend]).lse(
        x, y, scale, exclude=exclude, x_ids=x_ids, y_ids=y_ids, x_offset=x_offset, group=_resolve(group)
    )


@custom_op("multimodal_workbench::contrast_lse_backward", mutates_args=())
def contrast_lse_backward(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    row: Tensor,
    column: Tensor,
    g: Tensor,
    h: Tensor,
    x_ids: Tensor | None,
    y_ids: Tensor | None,
    *,
    exclude: str,
    x_offset: int,
    backend: str,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """(dx, dy, dscale) of g . row + h . column. The columns' sums are complete, so no group is needed."""
    gradients = import_module(BACKENDS[backend]).lse_gradients(
        x,
        y,
        scale,
        row,
        column,
        g,
        h,
        exclude=exclude,
        x_ids=x_ids,
        y_ids=y_ids,
        x_offset=x_offset,
        wanted=tuple(wanted),
    )
    dx, dy, dscale = _results((x, y, scale), gradients)
    return dx, dy, dscale


@contrast_lse.register_fake
def _(x: Tensor, y: Tensor, scale: Tensor, *ids: Tensor | None, **options: Any) -> tuple[Tensor, Tensor]:
    return scale.new_empty(x.shape[0]), scale.new_empty(y.shape[0])


@contrast_lse_backward.register_fake
def _(x: Tensor, y: Tensor, scale: Tensor, *others: Any, wanted: Sequence[bool], **options: Any) -> tuple[Tensor, ...]:
    return tuple(_empty_results((x, y, scale), wanted))


def _keep_lse(
    ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: tuple[Tensor, Tensor]
) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.options = {name: keyword_only_inputs[name] for name in ("exclude", "x_offset", "backend")}


@first_derivative_only
def _lse_backward(ctx: Any, g: Tensor, h: Tensor) -> Gradients:
    x, y, scale, x_ids, y_ids, row, column = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:3]
    found = contrast_lse_backward(x, y, scale, row, column, g, h, x_ids, y_ids, wanted=wanted, **ctx.options)
    kept = zip(found, (x, y, scale), wanted, strict=True)
    return *(gradient.to(v.dtype) if want else None for gradient, v, want in kept), None, None


contrast_lse.register_autograd(_lse_backward, setup_context=_keep_lse)


def _resolve(name: Any) -> Any:
    """The process group of a name, None for None."""
    if name is None:
        return None
    from torch.distributed.distributed_c10d import _resolve_process_group  # not in every build of torch

    return _resolve_process_group(name)


def _wrong_weights(group: Any, **weights: Tensor | None) -> Bool[Tensor, ""] | None:
    """Whether a weight is negative or NaN: a ValueError on the CPU, elsewhere a tensor that the host does not read."""
    given = {name: weight for name, weight in weights.items() if weight is not None}
    if all(weight.is_cpu for weight in given.values()):
        for name, weight in given.items():
            if not (weight >= 0).all():
                raise ValueError(
                    f"{name} has a least value of {weight.min().item()}: weights must be >= 0, 0 is absent"
                )
        return None
    (number,) = sum_over(group, torch.stack([(~(weight >= 0)).sum() for weight in given.values()]).sum())
    return number > 0


def _make_nan(wrong: Bool[Tensor, ""] | None, *results: Tensor) -> None:
    if wrong is not None:
        for result in results:
            result.masked_fill_(wrong, torch.nan)


def _result_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype == torch.float16 else dtype


def _results(inputs: tuple[Tensor, ...], gradients: Gradients) -> list[Tensor]:
    pairs = zip(inputs, gradients, strict=True)
    return [v.new_empty(0) if g is None else g.to(_result_dtype(v.dtype)).contiguous() for v, g in pairs]


def _empty_results(inputs: tuple[Tensor, ...], wanted: Sequence[bool]) -> list[Tensor]:
    """The shapes, dtypes and strides of `_results`."""
    pairs = zip(inputs, wanted, strict=True)
    return [v.new_empty(v.shape, dtype=_result_dtype(v.dtype)) if want else v.new_empty(0) for v, want in pairs]
