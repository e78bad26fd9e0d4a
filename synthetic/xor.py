"""XOR: three modalities, any two of them independent, any two of them determining the third.

The purest test of higher-order alignment: there is nothing in any pair, so a pairwise objective is blind. Its trap:
blind is a statement about the loss, not the accuracy, since an additive score over pairs can reach .75^bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from synthetic.theory.joint import Joint
from synthetic.theory.truth import Truth
from synthetic.world.bits import Bits

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

__all__ = ["XOR"]


class XOR:
    """a, b uniform and independent, c = a xor b; predict c from (a, b). Each is seen as its vector of bits.

    Every pair has I = 0; TC = bits ln 2; Bayes accuracy 1, chance 2^-bits.

    Args:
        bits: bits of each modality, 1 to 8.
    """

    modalities: tuple[str, ...] = ("a", "b", "c")
    target: str = "c"

    def __init__(self, *, bits: int = 3) -> None:
        self.world = Bits(bits)
        self.codes = dict.fromkeys(self.modalities, self.world.size)
        self.shapes = dict.fromkeys(self.modalities, self.world.shape)

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Int64[Tensor, " n"]]:
        a, b = torch.randint(self.world.size, (2, n), generator=generator)
        return {"a": a, "b": b, "c": a ^ b}

    def observe(self, modality: str, codes: Int64[Tensor, " n"]) -> Float[Tensor, "n bits"]:
        return self.world(codes)

    def joint(self) -> Joint:
        size = self.world.size
        a, b = np.indices((size, size)).reshape(2, -1)
        return Joint.merge(self.codes, {"a": a, "b": b, "c": a ^ b}, np.full(size**2, 1 / size**2))

    def truth(self, batch: int = 256) -> Truth:
        return Truth.of("xor", self.joint(), self.target, batch)
