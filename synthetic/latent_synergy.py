"""Latent synergy: two independent modalities and a label that only both together tell. The label is never shown.

There is nothing to align in the two modalities, so a contrast between them is blind at any size: what reads the label
from the embeddings finds only what the encoders kept by themselves.
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

__all__ = ["LatentSynergy"]


class LatentSynergy:
    """a, b uniform and independent; the label y = a xor b is never shown.

    I(a; b) = I(y; a) = I(y; b) = 0; I(y; a, b) = bits ln 2; Bayes accuracy 1 from both, chance 2^-bits from one.

    Args:
        bits: bits of each modality, 1 to 8.
    """

    modalities: tuple[str, ...] = ("a", "b")
    target: str = "y"

    def __init__(self, *, bits: int = 3) -> None:
        self.world = Bits(bits)
        self.codes = dict.fromkeys((*self.modalities, self.target), self.world.size)
        self.shapes = dict.fromkeys(self.modalities, self.world.shape)

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Int64[Tensor, " n"]]:
        a, b = torch.randint(self.world.size, (2, n), generator=generator)
        return {"a": a, "b": b, "y": a ^ b}

    def observe(self, modality: str, codes: Int64[Tensor, " n"]) -> Float[Tensor, "n bits"]:
        return self.world(codes)

    def joint(self) -> Joint:
        size = self.world.size
        a, b = outcomes(size, size)
        return Joint.merge(self.codes, {"a": a, "b": b, "y": a ^ b}, np.full(size**2, 1 / size**2))

    def truth(self, batch: int = 256) -> Truth:
        return Truth.of("latent-synergy", self.joint(), self.target, batch, modalities=self.modalities)
