"""Parity: M modalities, any M - 1 of them independent, all of them together determined.

The information is of order M alone: what fuses fewer than M - 1 modalities is provably blind, ConFu's pairs included.
At M = 3 it is XOR.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from synthetic.theory.joint import Joint, check_outcomes, outcomes
from synthetic.theory.truth import Truth
from synthetic.world.bits import Bits

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

__all__ = ["Parity"]


class Parity:
    """All modalities but the last uniform and independent, the last their bitwise xor; predict it from the others.

    Any M - 1 modalities are independent; TC = bits ln 2; Bayes accuracy 1, chance 2^-bits.

    Args:
        modalities: how many, M, 3 to 8; they are called a, b, c, ...
        bits: bits of each modality; (M - 1) bits at most 20.
    """

    def __init__(self, *, modalities: int = 4, bits: int = 2) -> None:
        if not 3 <= modalities <= 8:
            raise ValueError(f"modalities ({modalities}) must be between 3 and 8")
        self.modalities = tuple("abcdefgh"[:modalities])
        self.target = self.modalities[-1]
        self.world = Bits(bits)
        self.codes = dict.fromkeys(self.modalities, self.world.size)
        self.shapes = dict.fromkeys(self.modalities, self.world.shape)
        check_outcomes(*[self.world.size] * (modalities - 1))

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Int64[Tensor, " n"]]:
        free = torch.randint(self.world.size, (len(self.modalities) - 1, n), generator=generator)
        return dict(zip(self.modalities, (*free, reduce(torch.bitwise_xor, free)), strict=True))

    def observe(self, modality: str, codes: Int64[Tensor, " n"]) -> Float[Tensor, "n bits"]:
        return self.world(codes)

    def joint(self) -> Joint:
        free = outcomes(*[self.world.size] * (len(self.modalities) - 1))
        columns = dict(zip(self.modalities, (*free, np.bitwise_xor.reduce(free)), strict=True))
        return Joint.merge(self.codes, columns, np.full(free.shape[1], 1 / free.shape[1]))

    def truth(self, batch: int = 256) -> Truth:
        return Truth.of("parity", self.joint(), self.target, batch)
