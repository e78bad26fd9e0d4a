"""Losses of plain tensors on the CPU without torch's dispatcher, which takes longer than the loss of a small batch.

A call of an operator that is written in Python takes half a millisecond: torch packs its arguments, dispatches it twice
and looks up its autograd formula. Here a torch.autograd.Function calls the same backend and multiplies the same
gradients. Whoever watches or replaces operators (the compiler, torch.func, modes, subclasses of Tensor) still meets the
operator: `may_skip_dispatcher` tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from kernels.autograd import Context, Wanted, first_derivative_only, refuse_other_derivatives
from kernels.problem import Problem

if TYPE_CHECKING:
    from kernels.chunked.small import Exponentials

PLAIN = (Tensor, Parameter)


def may_skip_dispatcher(problem: Problem) -> bool:
    """Says whether nobody but autograd has to see that a loss is computed."""
    if torch.compiler.is_compiling() or not problem.x.is_cpu or torch.jit.is_tracing():
        return False
    # a mode of torch.func wraps tensors without changing their type
    if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack():
        return False
    if torch._C._len_torch_function_stack():
        return False
    return all(v is None or type(v) in PLAIN for v in problem.tensors)


class LossContext(Context, Protocol):
    """Holds what the backward of a loss needs."""

    dtypes: list[torch.dtype | None]
    """of each input's gradient, None where none is wanted"""
    num_others: int
    """inputs that never have a gradient"""

    def save_for_backward(self, *tensors: Tensor) -> None: ...
    def set_materialize_grads(self, value: bool) -> None: ...


def keep_gradients(
    ctx: LossContext, inputs: Sequence[Tensor | None], wanted: Wanted, gradients: Sequence[Tensor]
) -> None:
    """Keeps the gradients of a loss for its backward; the first inputs are those that may have one."""
    ctx.set_materialize_grads(False)  # else backward gets zeros of the size of x and y
    ctx.dtypes = [v.dtype if want and v is not None else None for v, want in zip(inputs, wanted, strict=False)]
    ctx.num_others = len(inputs) - len(wanted)
    # The inputs take no part in the product: they are kept so that differentiating it again meets first_derivative_only
    differentiated = [v for v, dtype in zip(inputs, ctx.dtypes, strict=False) if v is not None and dtype]
    ctx.save_for_backward(*gradients, *differentiated)


@first_derivative_only
def multiply_gradients(ctx: LossContext, upstream: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    """Multiplies the gradients that were kept by the upstream gradient, in each input's dtype."""
    no_gradients = (None,) * ctx.num_others
    if upstream is None:  # what follows the loss passed no gradient on
        return *(None for _ in ctx.dtypes), *no_gradients
    kept = zip(ctx.saved_tensors, ctx.dtypes, strict=False)
    return *((gradient * upstream).to(dtype) if dtype else None for gradient, dtype in kept), *no_gradients


Compute = Callable[[Problem], tuple[Tensor, ...]]
"""(problem) -> (value, dx, dy, dscale, dbias), an empty tensor in the place of what is not wanted"""


def differentiate(problem: Problem, compute: Compute) -> Tensor:
    """Computes a loss, differentiable in x, y, scale and bias."""
    return _Loss.apply(compute, problem, problem.x, problem.y, problem.scale, problem.bias)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compute: Compute, problem: Problem, *inputs: Tensor | None) -> Tensor:
        value, *gradients = compute(problem)
        keep_gradients(ctx, inputs, problem.wanted, gradients)
        return value

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, None, *multiply_gradients(ctx, *upstream)


def lse(problem: Problem) -> tuple[Tensor, Tensor] | None:
    """Computes contrast_lse, differentiable in x, y and scale, and keeps S until its backward; None if it is not small.

    Of one that is not small S is formed anew, so that there is little to gain beside it.
    """
    if problem.backend != "chunked":
        return None
    from kernels.chunked import small  # a backend is imported when it is first used

    with torch.no_grad():
        found = small.reduce_small(problem)
    return found and _Lse.apply(found, problem.x, problem.y, problem.scale)


class _Lse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, found: Exponentials, x: Tensor, y: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # the loss of rows alone passes none to the columns
        # The exponentials are saved as tensors, as those are freed by the backward
        ctx.kind, ctx.numbers = type(found), (found.own, found.reference)
        ctx.save_for_backward(x, y, scale, found.E, found.row_sum, found.column_sum)
        return found.lse

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, g: Tensor | None, h: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_other_derivatives({"the upstream gradient of row_lse": g, "the upstream gradient of col_lse": h})
        if g is None and h is None:
            return (None,) * 4
        x, y, scale, *exponentials = ctx.saved_tensors
        found: Exponentials = ctx.kind(*exponentials, *ctx.numbers)
        wanted = Wanted(*ctx.needs_input_grad[1:])
        gradients = found.differentiate(x, y, scale, g, h, wanted)
        kept = zip(gradients, (x, y, scale), strict=False)
        return None, *(None if gradient is None else gradient.to(v.dtype) for gradient, v in kept)
