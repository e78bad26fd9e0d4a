"""How gradients that were written by hand enter autograd, in which precision, and what a weight of 0 removes.

Inputs of half precision are computed in float32, float64 in float64, whatever torch.autocast says; each gradient goes
back in its input's own dtype and shape.

Trap: what counts is autocast where backward() is called, so a backward that multiplies matrices switches it off again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

Gradients = tuple[Tensor | None, ...]


def full_precision(x: Tensor) -> AbstractContextManager:
    """A context in which autocast leaves the products of x alone."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def accumulation_dtype(x: Tensor, y: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32


def scalar(value: Tensor | float, like: Tensor) -> Float[Tensor, ""]:
    """A scale or bias of shape [] or [1], or a number, as a 0-dimensional tensor."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(())


def wants_gradient(*inputs: Tensor | float) -> bool:
    return any(isinstance(value, Tensor) and value.requires_grad for value in inputs)


def first_derivative_only(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """once_differentiable, which alone says nothing where the upstream gradient is a constant: a gradient penalty on a
    loss would silently lose its gradient."""
    once = once_differentiable(backward)

    def checked(ctx: Any, *upstream: Tensor) -> Gradients:
        if torch.is_grad_enabled():  # create_graph=True: make whoever differentiates the result again see an error
            upstream = tuple(g.detach().requires_grad_() for g in upstream)
        return once(ctx, *upstream)

    return checked


class Computed(torch.autograd.Function):
    """A scalar loss whose gradients were computed together with its value.

    apply((value, gradients), *inputs): gradients in the order of inputs, None where none is wanted.
    """

    @staticmethod
    def forward(ctx: Any, computed: tuple[Tensor, Gradients], *inputs: Tensor | float) -> Float[Tensor, ""]:
        value, gradients = computed
        ctx.save_for_backward(*gradients)
        ctx.form = [(x.dtype, x.shape) if isinstance(x, Tensor) else None for x in inputs]
        return value

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, upstream: Float[Tensor, ""]) -> Gradients:
        pairs = zip(ctx.saved_tensors, ctx.form, strict=True)
        return None, *(None if g is None or form is None else in_form(g * upstream, form) for g, form in pairs)


def in_form(gradient: Tensor, form: tuple[torch.dtype, torch.Size]) -> Tensor:
    dtype, shape = form
    return gradient.to(dtype).reshape(shape)


class Side:
    """The items of one side that are present (weight > 0), in the accumulation dtype."""

    def __init__(self, z: Float[Tensor, "n d"], ids: Int64[Tensor, " n"], weight: Tensor | None, dtype: torch.dtype):
        self.num, self.kept, self.uniform = z.shape[0], None, weight is None
        self.z: Float[Tensor, "k d"] = z.to(dtype)
        self.ids: Int64[Tensor, " k"] = ids
        self.weight: Float[Tensor, " k"] = self.z.new_ones(self.num) if weight is None else weight.to(dtype)
        if weight is not None and not (present := self.weight > 0).all():
            self.kept = present.nonzero().squeeze(1)
            self.z, self.ids, self.weight = self.z[self.kept], ids[self.kept], self.weight[self.kept]

    def all_items(self, gradient: Float[Tensor, "k d"] | None) -> Float[Tensor, "n d"] | None:
        """The gradient of all items: 0 for those that are absent."""
        if gradient is None or self.kept is None:
            return gradient
        return gradient.new_zeros(self.num, gradient.shape[1]).index_copy_(0, self.kept, gradient)


def self_column(rows: Side, columns: Side, x_offset: int) -> Int64[Tensor, " m"]:
    """Which column each row itself is, among the columns that are present; -1 where it is not."""
    column = rows.kept if rows.kept is not None else torch.arange(rows.num, device=rows.z.device)
    column = column + x_offset
    if columns.kept is None:
        return column
    place = torch.full((columns.num,), -1, device=column.device)
    place[columns.kept] = torch.arange(columns.kept.shape[0], device=column.device)
    return place[column]
