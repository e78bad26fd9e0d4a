"""AND: part of what two modalities say of the third is in the pairs, part of it only in all three. A control.

An objective that sees pairs alone predicts a as well as any; only its loss tells what it misses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from synthetic.theory.joint import Joint, outcomes
from synthetic.theory.truth import Truth
from synthetic.world.bits import Bits

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

__all__ = ["And"]


class And:
    """a, b uniform and independent, c = a and b, bit by bit; predict a from (b, c).

    For each bit I(a; b) = 0, I(a; c) = I(b; c) = .2158 and I(a; b, c) = .3466 = ln 2 / 2. Bayes accuracy .75^bits, from
    c alone too; c itself is certain from (a, b).

    Args:
        bits: bits of each modality, 1 to 8.
    """

    modalities: tuple[str, ...] = ("a", "b", "c")
    target: str = "a"

    def __init__(self, *, bits: int = 1) -> None:
        self.world = Bits(bits)
        self.codes = dict.fromkeys(self.modalities, self.world.size)
        self.shapes = dict.fromkeys(self.modalities, self.world.shape)

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Int64[Tensor, " n"]]:
        a, b = torch.randint(self.world.size, (2, n), generator=generator)
        return {"a": a, "b": b, "c": a & b}

    def observe(self, modality: str, codes: Int64[Tensor, " n"]) -> Float[Tensor, "n bits"]:
        return self.world(codes)

    def joint(self) -> Joint:
        size = self.world.size
        a, b = outcomes(size, size)
        return Joint.merge(self.codes, {"a": a, "b": b, "c": a & b}, np.full(size**2, 1 / size**2))

    def truth(self, batch: int = 256) -> Truth:
        return Truth.of("and", self.joint(), self.target, batch)
