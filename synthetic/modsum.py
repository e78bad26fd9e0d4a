"""Sums modulo K: parity's information without its bits. A method that solves this has not just learned signs.

The trap: the phases of a sum mod K are complex for K > 2, so a product of real embeddings needs two coordinates each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from synthetic.theory.joint import Joint, check_outcomes, outcomes
from synthetic.theory.truth import Truth
from synthetic.world.symbols import Symbols

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

__all__ = ["ModSum"]


class ModSum:
    """All modalities but the last uniform on K symbols and independent, the last their sum mod K; predict it.

    Any M - 1 modalities are independent; TC = ln K; Bayes accuracy 1, chance 1/K. A symbol is seen as a one-hot row.

    Args:
        size: symbols of each modality, K; K^(M - 1) at most a million.
        modalities: how many, M, 3 to 8; they are called a, b, c, ...
    """

    def __init__(self, *, size: int = 5, modalities: int = 3) -> None:
        if not 3 <= modalities <= 8:
            raise ValueError(f"modalities ({modalities}) must be between 3 and 8")
        self.modalities = tuple("abcdefgh"[:modalities])
        self.target = self.modalities[-1]
        self.world = Symbols(size)
        self.codes = dict.fromkeys(self.modalities, size)
        self.shapes = dict.fromkeys(self.modalities, self.world.shape)
        check_outcomes(*[size] * (modalities - 1))

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Int64[Tensor, " n"]]:
        free = torch.randint(self.world.size, (len(self.modalities) - 1, n), generator=generator)
        return dict(zip(self.modalities, (*free, free.sum(0) % self.world.size), strict=True))

    def observe(self, modality: str, codes: Int64[Tensor, " n"]) -> Float[Tensor, "n size"]:
        return self.world(codes)

    def joint(self) -> Joint:
        free = outcomes(*[self.world.size] * (len(self.modalities) - 1))
        columns = dict(zip(self.modalities, (*free, free.sum(0) % self.world.size), strict=True))
        return Joint.merge(self.codes, columns, np.full(free.shape[1], 1 / free.shape[1]))

    def truth(self, batch: int = 256) -> Truth:
        return Truth.of("modsum", self.joint(), self.target, batch)
