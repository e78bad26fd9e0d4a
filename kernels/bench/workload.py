"""What is measured: one contrast of a given size, its inputs, the least work it takes, and its exact answer.

Trap: the floor counts the products of a linear-memory implementation. One that keeps the logits does fewer (6 MND), and
is charged 8 MND all the same, so that shares of the floor compare times and nothing else. On a CPU `chunked` keeps the
first 2^26, and passes the floor up to N = 8192.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

import kernels
from kernels.dispatch import BackendName
from kernels.problem import Average

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

SCALE, BIAS = 20.0, -10.0
Mode = Literal["forward", "full"]
"""value alone, without gradients; value and gradients of both sides, scale and bias"""

PRODUCTS = {
    "infonce": {"forward": 2, "full": 8},
    "each": {"forward": 2, "full": 8},
    "each rows": {"forward": 2, "full": 6},
    "sigmoid": {"forward": 2, "full": 6},
}
"""FLOPs over MND: matrix products of M x N x D, 2 each"""


class Inputs(NamedTuple):
    """Holds the arguments of a loss; both sides have the same ids."""

    x: Float[Tensor, "n d"]
    y: Float[Tensor, "n d"]
    scale: Float[Tensor, ""]
    bias: Float[Tensor, ""]
    ids: Int64[Tensor, " n"]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self)

    def leaves(self, dtype: torch.dtype | None = None) -> Inputs:
        """Returns the same numbers as leaves to differentiate in; with a dtype, all of them in it."""
        x, y, scale, bias = (z.detach().to(dtype or z.dtype).requires_grad_() for z in self[:4])
        return Inputs(x, y, scale, bias, self.ids)


class Ceilings(NamedTuple):
    """Holds the best that the device reached in the same run."""

    matmul: float
    """FLOP/s of a large square matrix product in the dtype of the features"""
    copy: float
    """bytes/s of a large copy, read and written"""


class Fields(TypedDict):
    """Holds the fields of a Workload, as they travel between processes."""

    loss: str
    n: int
    d: int
    positives: int
    dtype: str


@dataclass(frozen=True)
class Workload:
    """Describes n x n logits of d-dimensional unit rows; ids come `positives` at a time on both sides."""

    loss: str
    n: int
    d: int
    positives: int = 1
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.loss not in PRODUCTS:
            raise ValueError(f"loss is {self.loss!r}: it must be one of {', '.join(PRODUCTS)}")
        if self.n % self.positives:
            raise ValueError(f"n = {self.n} is no multiple of positives = {self.positives}: choose n = k * positives")

    @property
    def shape(self) -> str:
        return f"{self.n} x {self.d}"

    @property
    def title(self) -> str:
        many = f", {self.positives} positives a row" if self.positives > 1 else ""
        return f"{self.loss}, N = {self.n}, D = {self.d}, {self.dtype}{many}"

    def of_size(self, n: int) -> Workload:
        """Returns the same workload with at most n rows."""
        return replace(self, n=min(self.n, n - n % self.positives))

    def inputs(self, device: str, seed: int = 0) -> Inputs:
        """Draws rows that agree with those of their id, and with no others."""
        draw = torch.Generator(device).manual_seed(seed)

        def normal(rows: int) -> Tensor:
            return torch.randn(rows, self.d, generator=draw, device=device)

        ids = torch.arange(self.n, device=device) // self.positives
        concept = normal(self.n // self.positives)
        x, y = (normalize(concept[ids].add_(normal(self.n)), dim=1).to(getattr(torch, self.dtype)) for _ in range(2))
        return Inputs(x, y, torch.tensor(SCALE, device=device), torch.tensor(BIAS, device=device), ids)

    def flops(self, mode: Mode) -> int:
        """Counts the FLOPs of the matrix products that a linear-memory implementation cannot avoid."""
        return PRODUCTS[self.loss][mode] * self.n**2 * self.d

    def traffic(self, mode: Mode) -> int:
        """Counts the bytes that nobody avoids: the features are read, their gradients are written."""
        element = getattr(torch, self.dtype).itemsize
        return 2 * self.n * self.d * element * (2 if mode == "full" else 1)

    def floor(self, mode: Mode, ceilings: Ceilings) -> float:
        """Returns the seconds that nobody falls below, by products or by traffic."""
        return max(self.flops(mode) / ceilings.matmul, self.traffic(mode) / ceilings.copy)

    def exact(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """Computes value and gradients of x and y in float64, for these very features, whose rounding is no error."""
        z = inputs.leaves(torch.float64)
        value = evaluate(self.loss, z, "reference")
        value.backward()
        assert z.x.grad is not None
        assert z.y.grad is not None
        return value.detach(), z.x.grad, z.y.grad


def evaluate(loss: str, z: Inputs, backend: str) -> Float[Tensor, ""]:
    """Computes a loss by a backend of `kernels`."""
    backend = cast(BackendName, backend)
    if loss == "sigmoid":
        return kernels.multi_positive_sigmoid(z.x, z.y, z.scale, z.bias, z.ids, z.ids, backend=backend)
    positives: Average = "each" if loss.startswith("each") else "mean"
    return kernels.multi_positive_infonce(
        z.x, z.y, z.scale, z.ids, z.ids, positives=positives, symmetric=loss != "each rows", backend=backend
    )
