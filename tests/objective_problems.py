"""What the tests of objectives share: unit rows as views and pools, CLIP by hand, values with gradients."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.types import Pool, Side, View, Views

ABC, ABCD = ("a", "b", "c"), ("a", "b", "c", "d")
B, D = 13, 7


def unit(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=dtype), dim=-1).requires_grad_()


def views(sides: Any, b: int = B, k: int = 1, d: int = D, dtype: torch.dtype = torch.float64) -> Views:
    return {Side.parse(s): View(unit(b, k, d, dtype=dtype), torch.ones(b, k, dtype=torch.bool)) for s in sides}


def drop(z: Views, absent: dict[str, Tensor]) -> Views:
    """Take modality m from the samples absent[m], and a fused side where any member is gone, as the model does."""
    out = {}
    for side, view in z.items():
        gone = torch.zeros(len(view.z), dtype=torch.bool)
        for m in side.members:
            gone = gone | absent.get(m, gone)
        out[side] = View(view.z, view.valid & ~gone[:, None])
    return out


def pool(z: Views, ids: Tensor | None = None, **where: Any) -> Pool:
    b = len(next(iter(z.values())).z)
    return Pool(z, torch.arange(b) if ids is None else ids, **where)


def clip(x: Tensor, y: Tensor, s: float) -> Tensor:
    target = torch.arange(len(x))
    return (F.cross_entropy(s * x @ y.T, target) + F.cross_entropy(s * y @ x.T, target)) / 2


def same(got: Tensor, want: Tensor, *leaves: Tensor) -> None:
    """Equal values, and equal gradients of 3.7 times them."""
    torch.testing.assert_close(got.double(), want.double(), rtol=1e-8, atol=1e-9)
    mine = torch.autograd.grad(3.7 * got, leaves, allow_unused=True, retain_graph=True)
    theirs = torch.autograd.grad(3.7 * want, leaves, allow_unused=True, retain_graph=True)
    for a, b in zip(mine, theirs, strict=True):
        zero = torch.zeros(())
        torch.testing.assert_close(zero if a is None else a, zero if b is None else b, rtol=1e-6, atol=1e-7)


def leaves(z: Views) -> list[Tensor]:
    return [view.z for view in z.values()]
