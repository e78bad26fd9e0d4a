"""The tests of the operators share any loss as a scalar program of its inputs, and a program's gradients."""

from __future__ import annotations

import torch
from loss_arguments import random_arguments
from torch import Tensor

import kernels

LOSSES = ("mean", "logsum", "each", "sigmoid", "contrast_lse")
M, N, D = 13, 17, 5


def evaluate(loss: str, x, y, scale, bias, x_ids, y_ids, **options) -> Tensor:
    """Computes a scalar of any loss. The upstream of contrast_lse's rows varies, that of its columns is expanded."""
    if loss == "contrast_lse":
        row, column = kernels.contrast_lse(x, y, scale, x_ids=x_ids, y_ids=y_ids, **options)
        return (row * torch.arange(len(row))).sum() - 2.5 * column.sum()
    if loss == "sigmoid":
        return kernels.multi_positive_sigmoid(x, y, scale, bias, x_ids, y_ids, **options)
    return kernels.multi_positive_infonce(x, y, scale, x_ids, y_ids, positives=loss, **options)


def inputs(seed: int, dtype: torch.dtype = torch.float64, form: str = "plain") -> list[Tensor]:
    """Returns [x, y, log scale, bias, x_ids, y_ids], four leaves that want gradients first; `form` is that of x, y."""
    p = random_arguments(seed, M, N, D, 6.0, num_ids=3)
    x, y = p.x, p.y
    if form == "one view of several":
        x, y = (torch.stack([z, torch.full_like(z, torch.nan)], 1) for z in (x, y))
    elif form == "transposed":
        x, y = x.T.contiguous(), y.T.contiguous()
    elif form == "expanded":
        x, y = x[:1], y[:1]
    leaves = [v.to(dtype).requires_grad_() for v in (x, y, torch.tensor([1.5]), torch.tensor(-2.0))]
    return [*leaves, p.x_ids, p.y_ids]


VIEWS = {
    "plain": lambda z, _: z,
    "one view of several": lambda z, _: z[:, 0],
    "transposed": lambda z, _: z.T,
    "expanded": lambda z, rows: z.expand(rows, D),
}


def weights_for(loss: str, seed: int) -> dict[str, Tensor]:
    """Draws weights of rows and columns, some of them 0; contrast_lse has none."""
    if loss == "contrast_lse":
        return {}
    draw = torch.Generator().manual_seed(seed)
    return {f"{s}_weight": torch.randint(0, 3, (n,), generator=draw) * 0.5 for s, n in (("x", M), ("y", N))}


def train(program, arguments: list[Tensor], **weights: Tensor) -> dict[str, Tensor]:
    """Computes the value and the gradients of a program, for an upstream gradient of -1.5."""
    leaves = arguments[:4]
    value = program(*arguments, **weights)
    gradients = torch.autograd.grad(-1.5 * value, leaves, allow_unused=True)
    assert all(g is None or g.dtype == v.dtype for g, v in zip(gradients, leaves, strict=True))
    found = zip(("x", "y", "scale", "bias"), gradients, strict=True)
    return {"value": value.detach(), **{name: g for name, g in found if g is not None}}
