"""The kernels' tests share random arguments, one way to see a loss's value and all its gradients, and one to see what
it computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import kernels
from kernels import ops


@dataclass(frozen=True)
class Arguments:
    """Holds the arguments of a loss. Ids overlap partly, so that rows have zero, one or several positives."""

    x: Tensor
    y: Tensor
    scale: Tensor | float
    bias: Tensor | float
    x_ids: Tensor
    y_ids: Tensor
    options: dict[str, Any] = field(default_factory=dict)

    def to(self, dtype: torch.dtype) -> Arguments:
        def cast(v: Tensor | float) -> Tensor | float:
            return v.to(dtype) if isinstance(v, Tensor) else v

        return replace(self, x=self.x.to(dtype), y=self.y.to(dtype), scale=cast(self.scale), bias=cast(self.bias))

    def on(self, device: str) -> Arguments:
        names = ("x", "y", "scale", "bias", "x_ids", "y_ids")
        moved = {name: getattr(self, name) for name in names}
        return replace(self, **{k: v.to(device) if isinstance(v, Tensor) else v for k, v in moved.items()})

    def halved(self, dtype: torch.dtype) -> Arguments:
        """Casts the features to half precision; scale and bias stay what they are."""
        return replace(self, x=self.x.to(dtype), y=self.y.to(dtype))


def random_arguments(seed: int, m: int, n: int, d: int, scale: float, num_ids: int, **options: Any) -> Arguments:
    """Draws m rows and n columns of d dimensions, in float64, with ids among 2 num_ids that are far apart."""
    draw = torch.Generator().manual_seed(seed)

    def unit(rows: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(rows, d, generator=draw, dtype=torch.float64), dim=1)

    def ids(rows: int) -> Tensor:
        return torch.randint(-num_ids, num_ids, (rows,), generator=draw) * 10**9

    t, b = torch.tensor(scale, dtype=torch.float64), torch.tensor([-1.5], dtype=torch.float64)
    return Arguments(unit(m), unit(n), t, b, ids(m), ids(n), options)


def run(loss: str, p: Arguments, upstream: float = 1.0, wanted: str | None = None, **options: Any) -> dict[str, Tensor]:
    """Computes the value and the gradients of a loss, all or the one `wanted`.

    For contrast_lse the value is a random linear function of both vectors, the same each time. With `prefixes` it is
    kernels.matryoshka's.
    """
    inputs = {"x": p.x, "y": p.y, "scale": p.scale} | ({"bias": p.bias} if loss == "sigmoid" else {})
    inputs = {k: v.detach() if isinstance(v, Tensor) else v for k, v in inputs.items()}
    leaves = {k: v.requires_grad_(wanted in (None, k)) for k, v in inputs.items() if isinstance(v, Tensor)}
    options = p.options | options
    prefixes = options.pop("prefixes", None)
    if loss == "contrast_lse":
        row, column = kernels.contrast_lse(*inputs.values(), x_ids=p.x_ids, y_ids=p.y_ids, **options)
        lse = torch.cat([row, column])
        weight = torch.randn(len(lse), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(lse.dtype)
        value = (weight * lse.masked_fill(lse.isneginf(), 0.0)).sum()
        out = {"lse": lse.detach()}
    else:
        function, own = kernels.multi_positive_sigmoid, {}
        if loss != "sigmoid":
            function, own = kernels.multi_positive_infonce, {"positives": loss}
        if prefixes is not None:
            function = partial(kernels.matryoshka, function, prefixes=prefixes)
        value = function(*inputs.values(), p.x_ids, p.y_ids, **own, **options)
        out = {"value": value.detach()}
    (value * upstream).backward()
    for name, leaf in leaves.items():
        if leaf.grad is not None:
            assert leaf.grad.dtype == leaf.dtype
            out[name] = leaf.grad
    return out


def assert_equal(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float, note: Any = "") -> None:
    """Fails unless each result is within tolerance of the other's, relative to its largest entry (at least 1)."""
    assert got.keys() == want.keys()
    for name, expected in want.items():
        actual, expected = got[name].double(), expected.double()
        assert actual.shape == expected.shape, (name, note)
        assert torch.equal(actual.isneginf(), expected.isneginf()), (name, note)
        difference = (actual - expected).masked_fill(expected.isneginf(), 0.0).abs()
        size = expected.masked_fill(expected.isneginf(), 0.0).abs()
        error = difference.max() / size.max().clamp_min(1.0) if difference.numel() else torch.zeros(())
        assert error <= tolerance, f"{name}: {error:.2e} > {tolerance:.0e}; {note}"  # also fails for NaN


class Inside(TorchDispatchMode, ABC):
    """Shows `seen` every operation on tensors with its result, those inside our operators too."""

    @abstractmethod
    def seen(self, func: Any, result: Any) -> None: ...

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "multimodal_workbench":
            with self:
                return getattr(ops, f"compute_{func._opname}")(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        self.seen(func, result)
        return result
