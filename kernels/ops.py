"""The losses as operators of torch: torch.compile, torch.export and CUDA graphs see one node, not its insides.

An operator takes tensors and plain options only, so a Problem is packed here, in the order of TENSORS and OPTIONS, and
unpacked behind the operator, where its backend gets it whole. A loss computes the wanted gradients together with its
value and returns them, an empty tensor in the place of the others; its backward only multiplies by the upstream
gradient. contrast_lse, whose upstream gradients are vectors, has a second operator for its backward.

Traps
- Results may not share memory with an argument or with one another, and gradients are contiguous whatever the strides
  of their inputs: a compiled program relies on what register_fake promises.
- A float16 gradient would lose what is below 6e-8 before a GradScaler's factor, which is part of the upstream gradient,
  could save it. It stays float32 until it has met that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.library import register_autograd, register_fake

from kernels import direct
from kernels.autograd import Context, Gradients, Wanted, first_derivative_only, refuse_other_derivatives
from kernels.backends import load
from kernels.problem import Problem
from kernels.registration import define_operator
from kernels.weights import find_wrong_weights

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch.distributed import ProcessGroup

TENSORS = {
    "x": "Tensor",
    "y": "Tensor",
    "scale": "Tensor",
    "bias": "Tensor?",
    "x_ids": "Tensor?",
    "y_ids": "Tensor?",
    "x_weight": "Tensor?",
    "y_weight": "Tensor?",
    "x_log_weight": "Tensor?",
    "y_log_weight": "Tensor?",
    "x_guide": "Tensor?",
    "y_guide": "Tensor?",
}
OPTIONS = {
    "exclude": "str",
    "x_offset": "SymInt",
    "positives": "str",
    "symmetric": "bool",
    "label_smoothing": "float",
    "hardness": "float",
    "false_negative_margin": "float?",
    "relative_margin": "bool",
    "prefixes": "int[]",
    "prefix_weights": "float[]",
    "group": "str?",
    "wanted": "bool[]",
    "backend": "str",
}
"""the fields of a Problem, and their types in an operator; the process group goes by its name"""


Options = dict[str, Any]


def _list(arguments: dict[str, str]) -> str:
    return ", ".join(f"{kind} {name}" for name, kind in arguments.items())


LOSS = f"({_list(TENSORS)}, *, {_list(OPTIONS)}) -> (Tensor value, Tensor dx, Tensor dy, Tensor dscale, Tensor dbias)"
LSE = f"({_list(TENSORS)}, *, {_list(OPTIONS)}) -> (Tensor row, Tensor column)"
LSE_BACKWARD = (
    f"(Tensor row, Tensor column, Tensor g, Tensor h, {_list(TENSORS)}, *, {_list(OPTIONS)})"
    " -> (Tensor dx, Tensor dy, Tensor dscale)"
)


def pack(problem: Problem) -> tuple[tuple[Tensor | None, ...], Options]:
    """Takes a problem apart into the arguments of an operator."""
    tensors = tuple(getattr(problem, name) for name in TENSORS)
    options = {name: getattr(problem, name) for name in OPTIONS}
    # Operators take no Python objects: a process group travels by its name, which every rank resolves for itself
    group = None if problem.group is None else problem.group.group_name
    return tensors, options | {"group": group, "wanted": list(problem.wanted)}


def unpack(tensors: Sequence[Tensor | None], options: Options) -> Problem:
    """Puts the problem that was packed together again."""
    fields: dict[str, Any] = dict(zip(TENSORS, tensors, strict=True))
    fields |= options | {"group": _find_group(options["group"]), "wanted": Wanted(*options["wanted"])}
    return Problem(**fields)


def infonce(problem: Problem) -> Float[Tensor, ""]:
    """Computes kernels.multi_positive_infonce, differentiable in x, y and scale."""
    if direct.may_skip_dispatcher(problem):
        return direct.differentiate(problem, _complete_infonce)
    tensors, options = pack(problem)
    value, *_ = infonce_op(*tensors, **options)
    return value


def sigmoid(problem: Problem) -> Float[Tensor, ""]:
    """Computes kernels.multi_positive_sigmoid, differentiable in x, y, scale and bias."""
    if direct.may_skip_dispatcher(problem):
        return direct.differentiate(problem, _complete_sigmoid)
    tensors, options = pack(problem)
    value, *_ = sigmoid_op(*tensors, **options)
    return value


def lse(problem: Problem) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    """Computes kernels.contrast_lse, differentiable in x, y and scale."""
    if direct.may_skip_dispatcher(problem) and (found := direct.lse(problem)):
        return found
    tensors, options = pack(problem)
    return contrast_lse_op(*tensors, **options)


def compute_infonce(*tensors: Tensor | None, **options: Any) -> tuple[Tensor, ...]:
    """Returns (value, dx, dy, dscale, dbias) of a packed problem; dbias is empty."""
    return _complete_infonce(unpack(tensors, options))


def compute_sigmoid(*tensors: Tensor | None, **options: Any) -> tuple[Tensor, ...]:
    """Returns (value, dx, dy, dscale, dbias) of a packed problem."""
    return _complete_sigmoid(unpack(tensors, options))


def _complete_infonce(problem: Problem) -> tuple[Tensor, ...]:
    return _complete(problem, load(problem.backend).infonce)


def _complete_sigmoid(problem: Problem) -> tuple[Tensor, ...]:
    return _complete(problem, load(problem.backend).sigmoid)


class _Loss(Protocol):
    def __call__(self, problem: Problem) -> tuple[Tensor, Gradients]: ...


def _complete(problem: Problem, loss: _Loss) -> tuple[Tensor, ...]:
    """Computes a loss, with its weights checked and its gradients in the form that an operator owes."""
    # Found before the loss: on a GPU nothing is read back here, and results become NaN in the place of an error
    wrong = find_wrong_weights(problem)
    value, gradients = loss(problem)
    results = value, *fill_results((problem.x, problem.y, problem.scale, problem.bias), gradients)
    if wrong is not None:
        for result in results:
            result.masked_fill_(wrong, torch.nan)
    return results


def _fake_loss(*tensors: Tensor | None, wanted: Sequence[bool], **options: Any) -> tuple[Tensor, ...]:
    """Returns tensors with the shapes, dtypes and strides of a loss's results, for tracing."""
    x, y, scale, bias, *_ = tensors
    assert scale is not None
    return torch.empty_like(scale), *empty_results((x, y, scale, bias), wanted)


infonce_op = define_operator("infonce", LOSS, compute_infonce)
sigmoid_op = define_operator("sigmoid", LOSS, compute_sigmoid)
register_fake(infonce_op, _fake_loss)
register_fake(sigmoid_op, _fake_loss)


class _LossContext(direct.LossContext, Protocol):
    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...


def _keep_gradients(
    ctx: _LossContext, inputs: Sequence[Tensor | None], keyword_only_inputs: Options, output: tuple[Tensor, ...]
) -> None:
    _, *gradients = output
    ctx.mark_non_differentiable(*gradients)
    direct.keep_gradients(ctx, inputs, Wanted(*keyword_only_inputs["wanted"]), gradients)


register_autograd(infonce_op, direct.multiply_gradients, setup_context=_keep_gradients)
register_autograd(sigmoid_op, direct.multiply_gradients, setup_context=_keep_gradients)


def compute_contrast_lse(*tensors: Tensor | None, **options: Any) -> tuple[Tensor, Tensor]:
    """Returns (row, column) of a packed problem."""
    problem = unpack(tensors, options)
    return load(problem.backend).lse(problem)


def compute_contrast_lse_backward(
    row: Tensor, column: Tensor, g: Tensor, h: Tensor, *tensors: Tensor | None, **options: Any
) -> tuple[Tensor, ...]:
    """Returns (dx, dy, dscale) of g . row + h . column, for the (row, column) of a packed problem."""
    problem = unpack(tensors, options)
    gradients = load(problem.backend).lse_gradients(problem, row, column, g, h)
    return tuple(fill_results((problem.x, problem.y, problem.scale), gradients[:3]))


def _fake_lse(x: Tensor, y: Tensor, scale: Tensor, *others: Tensor | None, **options: Any) -> tuple[Tensor, Tensor]:
    return scale.new_empty(x.shape[0]), scale.new_empty(y.shape[0])


def _fake_lse_backward(
    row: Tensor,
    column: Tensor,
    g: Tensor,
    h: Tensor,
    *tensors: Tensor | None,
    wanted: Sequence[bool],
    **options: Any,
) -> tuple[Tensor, ...]:
    return tuple(empty_results(tensors[:3], wanted[:3]))


contrast_lse_op = define_operator("contrast_lse", LSE, compute_contrast_lse)
contrast_lse_backward_op = define_operator("contrast_lse_backward", LSE_BACKWARD, compute_contrast_lse_backward)
register_fake(contrast_lse_op, _fake_lse)
register_fake(contrast_lse_backward_op, _fake_lse_backward)


class _LseContext(Context, Protocol):
    options: Options

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


def _keep_lse(
    ctx: _LseContext,
    inputs: tuple[Tensor | None, ...],
    keyword_only_inputs: Options,
    output: tuple[Tensor, Tensor],
) -> None:
    ctx.save_for_backward(*inputs, *output)
    # The columns' sums are complete, so that the backward of a strip needs nothing of the other ranks
    ctx.options = keyword_only_inputs | {"group": None}


@first_derivative_only
def _lse_backward(ctx: _LseContext, g: Tensor, h: Tensor) -> tuple[Tensor | None, ...]:
    refuse_other_derivatives({"the upstream gradient of row_lse": g, "the upstream gradient of col_lse": h})
    *tensors, row, column = ctx.saved_tensors
    wanted = Wanted(*ctx.needs_input_grad[:3])
    found = contrast_lse_backward_op(row, column, g, h, *tensors, **ctx.options | {"wanted": list(wanted)})
    kept = zip(found, tensors[:3], wanted[:3], strict=True)
    no_gradients = (None,) * (len(tensors) - 3)
    return *(gradient.to(v.dtype) if want else None for gradient, v, want in kept), *no_gradients


register_autograd(contrast_lse_op, _lse_backward, setup_context=_keep_lse)


def _find_group(name: Any) -> ProcessGroup | None:
    """Returns the process group of a name."""
    if name is None:
        return None
    from torch.distributed.distributed_c10d import _resolve_process_group  # not in every build of torch

    return _resolve_process_group(name)


def fill_results(inputs: Sequence[Tensor | None], gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """Returns gradients as results of an operator, an empty tensor in the place of each that was not wanted."""
    x = inputs[0]
    assert x is not None
    pairs = zip(inputs, gradients, strict=True)
    return [x.new_empty(0) if v is None or g is None else g.to(_result_dtype(v)).contiguous() for v, g in pairs]


def empty_results(inputs: Sequence[Tensor | None], wanted: Sequence[bool]) -> list[Tensor]:
    """Returns tensors with the shapes, dtypes and strides of `fill_results`, for tracing."""
    x = inputs[0]
    assert x is not None
    pairs = zip(inputs, wanted, strict=True)
    return [
        x.new_empty(0) if v is None or not want else v.new_empty(v.shape, dtype=_result_dtype(v)) for v, want in pairs
    ]


def _result_dtype(v: Tensor) -> torch.dtype:
    return torch.float32 if v.dtype == torch.float16 else v.dtype
