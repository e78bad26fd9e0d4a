"""How gradients that were written by hand enter autograd: once, in their inputs' dtype and shape, autocast or not.

Trap: what counts is autocast where backward() is called, so a backward that multiplies matrices switches it off again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Gradients = tuple[Tensor | None, ...]


def full_precision(x: Tensor) -> AbstractContextManager:
    """A context in which autocast leaves the products of x alone."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def wanted(*inputs: Tensor | float) -> tuple[bool, ...]:
    """Which inputs a gradient is wanted for. To be asked before gradients are switched off."""
    enabled = torch.is_grad_enabled()
    return tuple(enabled and isinstance(value, Tensor) and value.requires_grad for value in inputs)


def first_derivative_only(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """once_differentiable, which alone says nothing where the upstream gradient is a constant: a gradient penalty on a
    loss would silently lose its gradient."""
    once = once_differentiable(backward)

    def checked(ctx: Any, *upstream: Tensor | None) -> Gradients:
        if torch.is_grad_enabled():  # create_graph=True: make whoever differentiates the result again see an error
            upstream = tuple(None if g is None else g.detach().requires_grad_() for g in upstream)
        return once(ctx, *upstream)

    return checked


def accumulation_dtype(x: Tensor, y: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
