"""Which backends there are, what each has to have, and how one is found by its name.

`reference` is no backend of an operator: autograd differentiates it, while the others bring their gradients along.
`Losses` says what the two ways have in common, `Backend` what stands behind the operators. kernels/contracts.py has
pyright check that every module keeps to its Protocol.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from torch import Tensor

from kernels.autograd import Gradients
from kernels.problem import Problem

if TYPE_CHECKING:
    from jaxtyping import Float

BACKENDS = {"chunked": "kernels.chunked.losses", "triton": "kernels.tiles.losses"}
"""name -> its module, imported when it is first used; a new backend is one module and one line here"""


@runtime_checkable
class Losses(Protocol):
    """Computes differentiable losses: modules `reference` and `ops`."""

    def infonce(self, problem: Problem) -> Float[Tensor, ""]: ...
    def sigmoid(self, problem: Problem) -> Float[Tensor, ""]: ...
    def lse(self, problem: Problem) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]: ...


@runtime_checkable
class Backend(Protocol):
    """Computes values together with gradients, by pure functions that autograd does not see."""

    def infonce(self, problem: Problem) -> tuple[Float[Tensor, ""], Gradients]: ...
    def sigmoid(self, problem: Problem) -> tuple[Float[Tensor, ""], Gradients]: ...
    def lse(self, problem: Problem) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]: ...

    def lse_gradients(
        self,
        problem: Problem,
        row: Float[Tensor, " m"],
        column: Float[Tensor, " n"],
        g: Float[Tensor, " m"],
        h: Float[Tensor, " n"],
    ) -> Gradients:
        """Computes the wanted gradients of g . row + h . column, for the (row, column) that `lse` returned."""
        ...

    def khatri_rao_lse(
        self, x: Float[Tensor, "m d"], y: Float[Tensor, "n d"], z: Float[Tensor, "k d"], scale: Float[Tensor, ""], /
    ) -> Float[Tensor, " m"]: ...

    def khatri_rao_gradients(
        self,
        x: Float[Tensor, "m d"],
        y: Float[Tensor, "n d"],
        z: Float[Tensor, "k d"],
        scale: Float[Tensor, ""],
        row: Float[Tensor, " m"],
        g: Float[Tensor, " m"],
        wanted: tuple[bool, ...],
        /,
    ) -> tuple[Tensor | None, ...]:
        """Computes the wanted ones of (dx, dy, dz, dscale) of g . row, for the row that `khatri_rao_lse` returned."""
        ...


def load(name: str) -> Backend:
    """Imports the backend of a name."""
    return cast(Backend, import_module(BACKENDS[name]))
