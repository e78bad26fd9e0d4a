"""How gradients that were written by hand enter autograd: once, in their inputs' dtype and shape, autocast or not.

Traps
- What counts is autocast where backward() is called, so a backward that multiplies matrices switches it off again.
- torch differentiates a custom operator in reverse only, and once. Whatever else it is asked for (a tangent of forward
  mode, a second derivative) it takes for 0 and says nothing, unless this module refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue] # its stubs do not export it
from torch.autograd import forward_ad

REMEDY = "pass backend='reference', which is dense and takes every derivative"


class Wanted(NamedTuple):
    """Says of which inputs a gradient is wanted."""

    x: bool = False
    y: bool = False
    scale: bool = False
    bias: bool = False


class Gradients(NamedTuple):
    """Holds the gradients of a loss in its inputs, None where none was wanted."""

    x: Tensor | None
    y: Tensor | None
    scale: Tensor | None
    bias: Tensor | None = None


class Context(Protocol):
    """Holds what torch hands a backward: the tensors that were kept for it, and which inputs need a gradient."""

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...
    @property
    def needs_input_grad(self) -> Sequence[bool]: ...


NOTHING_WANTED = Wanted()

Backward = Callable[..., tuple[Tensor | None, ...]]
"""(context, upstream gradients...) -> a gradient, or None, for each input of the operator"""


def accumulation_dtype(x: Tensor, y: Tensor) -> torch.dtype:
    """Returns the dtype that logits are summed in: float64 where an input is float64, else float32."""
    return torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Returns a context in which autocast leaves matrix products on the device of x in their own dtype."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def find_wanted(*inputs: Tensor | None) -> Wanted:
    """Says for which of (x, y, scale, bias) autograd will ask for a gradient.

    It has to be asked outside of the operator, inside of which torch switches gradients off.
    """
    if not torch.is_grad_enabled():
        return NOTHING_WANTED
    # torch.vmap wraps its slices in tensors that never require a gradient, whatever the tensor inside does
    return Wanted(*(v is not None and any(t.requires_grad for t in _list_layers(v)) for v in inputs))


def refuse_other_derivatives(inputs: Mapping[str, Tensor | float | None]) -> None:
    """Raises NotImplementedError where inputs, by name, are differentiated by anything but reverse mode.

    torch.func.jvp, jacfwd and dual numbers are forward mode; torch.func.grad, vjp and jacrev run in reverse, but by a
    protocol that custom operators do not have.
    """
    functorch = torch._C._are_functorch_transforms_active()
    tensors = [(name, t) for name, v in inputs.items() if isinstance(v, Tensor) for t in _list_layers(v)]
    for name, tensor in tensors:
        if functorch and _functorch.is_batchedtensor(tensor):
            continue  # has no tangent of its own, but maybe the tensor inside
        if forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError(
                f"{name} carries a tangent, but these losses have no forward-mode derivative (torch.func.jvp, jacfwd, "
                f"torch.autograd.forward_ad): call backward(), or {REMEDY}"
            )
    # Which input it is remains unsaid: a transform wraps all that it computes with
    if functorch and any(_functorch.is_gradtrackingtensor(tensor) for _, tensor in tensors):
        raise NotImplementedError(
            "torch.func (grad, vjp, jacrev, hessian) cannot see through these losses: call backward() or "
            f"torch.autograd.grad, or {REMEDY}"
        )


def _list_layers(tensor: Tensor) -> list[Tensor]:
    """Lists a tensor and, where transforms of torch.func wrapped it, the tensors inside, outermost first."""
    layers = [tensor]
    if torch._C._are_functorch_transforms_active():  # the one of these questions that torch.compile can trace
        while _functorch.is_functorch_wrapped_tensor(layers[-1]):
            layers.append(_functorch.get_unwrapped(layers[-1]))
    return layers


def first_derivative_only(backward: Backward) -> Backward:
    """Makes a backward whose gradients raise RuntimeError when they are differentiated in turn.

    torch's own once_differentiable lets its error hang from a tensor that nothing else depends on. Whoever asks for the
    derivative in x alone (torch.autograd.grad of a loss with a gradient penalty, hvp) never meets it, and gets the
    derivative without the penalty. Here the error stands between the gradients and what they depend on: the upstream
    gradients and the saved tensors, among which an operator therefore has its inputs.
    """

    def checked(ctx: Context, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            gradients = backward(ctx, *upstream)
        if not torch.is_grad_enabled():  # no create_graph=True: nobody can differentiate these gradients
            return gradients
        # An error now would be too early: create_graph=True is for the whole graph, and maybe only other parts of it
        # are differentiated again
        return _Undifferentiable.apply(len(gradients), *gradients, *upstream, *ctx.saved_tensors)

    return checked


class _Undifferentiable(torch.autograd.Function):
    """Passes the first `num` tensors through, as results of all of them that raise an error when differentiated."""

    @staticmethod
    def forward(ctx: Any, num: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tensors[:num]

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> None:
        raise RuntimeError(
            "the gradients of these losses cannot be differentiated again, as a gradient penalty or a Hessian would "
            f"(they are once_differentiable): {REMEDY}"
        )
