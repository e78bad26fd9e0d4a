"""What the kernels' tests share: random problems, and one way to run a loss and look at its value and all its gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import kernels
import kernels.logits


@dataclass(frozen=True)
class Problem:
    """Inputs of a loss. Ids overlap partly, so that rows have zero, one or several positives."""

    x: Tensor
    y: Tensor
    scale: Tensor | float
    x_ids: Tensor
    y_ids: Tensor
    bias: Tensor | float = -1.5
    options: dict[str, Any] | None = None

    def to(self, dtype: torch.dtype) -> Problem:
        def move(v: Any) -> Any:
            return v.to(dtype) if isinstance(v, Tensor) else v

        return replace(self, x=move(self.x), y=move(self.y), scale=move(self.scale), bias=move(self.bias))


def random_problem(seed: int, m: int, n: int, d: int, scale: float, num_ids: int, **options: Any) -> Problem:
    draw = torch.Generator().manual_seed(seed)

    def unit(rows: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(rows, d, generator=draw, dtype=torch.float64), dim=1)

    def ids(rows: int) -> Tensor:
        return torch.randint(-num_ids, num_ids, (rows,), generator=draw) * 10**9

    scales = torch.tensor(scale, dtype=torch.float64), torch.tensor([-1.5], dtype=torch.float64)
    return Problem(unit(m), unit(n), scales[0], ids(m), ids(n), scales[1], options)


def run(loss: str, p: Problem, upstream: float = 1.0, **more: Any) -> dict[str, Tensor]:
    """Value and gradients of a loss; for contrast_lse the value is a random function of both vectors, the same each time."""
    inputs = {"x": p.x, "y": p.y, "scale": p.scale}
    inputs |= {"bias": p.bias} if loss == "sigmoid" else {}
    leaves = {k: v.detach().clone().requires_grad_() if isinstance(v, Tensor) else v for k, v in inputs.items()}
    options = {**(p.options or {}), **more}
    if loss == "contrast_lse":
        row, column = kernels.contrast_lse(*leaves.values(), x_ids=p.x_ids, y_ids=p.y_ids, **options)
        lse = torch.cat([row, column])
        sign = torch.randn(len(lse), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(lse.dtype)
        value = (sign * lse.masked_fill(lse.isneginf(), 0.0)).sum()
        out = {"lse": lse}
    else:
        if loss == "sigmoid":
            value = kernels.multi_positive_sigmoid(*leaves.values(), p.x_ids, p.y_ids, **options)
        else:
            value = kernels.multi_positive_infonce(*leaves.values(), p.x_ids, p.y_ids, positives=loss, **options)
        out = {"value": value}
    assert value.requires_grad
    (value * upstream).backward()
    gradients = {k: v.grad for k, v in leaves.items() if isinstance(v, Tensor)}
    for name, gradient in gradients.items():
        assert gradient is not None
        assert gradient.dtype == leaves[name].dtype
    return {k: v.detach() for k, v in (out | gradients).items()}


def assert_equal(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float, note: Any = "") -> None:
    """Each result within tolerance of the other's, relative to its largest entry (at least 1)."""
    assert got.keys() == want.keys()
    for name, expected in want.items():
        actual, expected = got[name].double(), expected.double()
        assert actual.shape == expected.shape, (name, note)
        assert torch.equal(actual.isneginf(), expected.isneginf()), (name, note)
        difference = (actual - expected).masked_fill(expected.isneginf(), 0.0).abs()
        size = expected.masked_fill(expected.isneginf(), 0.0).abs()
        error = difference.max() / size.max().clamp_min(1.0) if difference.numel() else torch.zeros(())
        assert error <= tolerance, f"{name}: {error:.2e} > {tolerance:.0e}; {note}"  # also fails for NaN


@pytest.fixture(scope="session")
def make() -> Callable[..., Problem]:
    return random_problem


@pytest.fixture(scope="session", name="run")
def run_fixture() -> Callable[..., dict[str, Tensor]]:
    return run


@pytest.fixture(scope="session", name="assert_equal")
def assert_equal_fixture() -> Callable[..., None]:
    return assert_equal


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Chunks of 3 rows or so, so that small problems have many and the last is ragged."""
    monkeypatch.setattr(kernels.logits, "CELLS", 60)
    monkeypatch.setattr(kernels.logits, "MIN_ROWS", 3)
    yield


LOSSES = ("mean", "logsum", "each", "sigmoid", "contrast_lse")
